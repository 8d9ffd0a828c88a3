/* What both doubles share: a world is read from the environment, strictly, and a world that cannot be aborts. */
#ifndef DOUBLE_H
#define DOUBLE_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

/* Ends the process: a test that went on with a world nobody understands would prove nothing. */
__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs(DOUBLE_NAME ": ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    fflush(stderr);
    va_end(arguments);
    abort();
}

__attribute__((unused)) static int given(const char *name) { return getenv(name) != NULL; }

__attribute__((unused)) static const char *text(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    if (value && !*value)
        refuse("%s is set but empty", name);
    return value ? value : otherwise;
}

__attribute__((unused)) static long long number(const char *name, long long otherwise, long long least, long long most)
{
    const char *value = getenv(name);
    char *end;
    long long parsed;
    if (!value)
        return otherwise;
    errno = 0;
    parsed = strtoll(value, &end, 0);
    if (errno || end == value || *end)
        refuse("%s=%s is not a number", name, value);
    if (parsed < least || parsed > most)
        refuse("%s=%s lies outside %lld..%lld", name, value, least, most);
    return parsed;
}

/* Refuses a variable of this double that no line of it reads: a misspelt fault would be a world without the fault. */
__attribute__((unused)) static void only_known(const char *prefix, const char *const *known)
{
    for (char **entry = environ; entry && *entry; entry++) {
        size_t length = strcspn(*entry, "=");
        int found = 0;
        if (strncmp(*entry, prefix, strlen(prefix)))
            continue;
        for (const char *const *name = known; *name && !found; name++)
            found = strlen(*name) == length && !strncmp(*entry, *name, length);
        if (!found)
            refuse("%.*s is not understood", (int)length, *entry);
    }
}

#endif
