"""Inside the serving container: the reference server, its pipeline and what it proves about itself."""
