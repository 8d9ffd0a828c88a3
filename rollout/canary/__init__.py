"""The load driver: sends canary requests, times them at the socket and checks what came back."""
