/* loops KIND SECONDS: opens, reads and closes ("open") or looks at ("stat") the files named on standard input, a line
   each, one after the other and over again for that long; prints how many that were in a second. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void touch(const char *path, int whole) {
    static char bytes[1 << 16];
    struct stat found;
    if (!whole) {
        if (stat(path, &found) != 0) fail(path);
        return;
    }
    int file = open(path, O_RDONLY);
    if (file < 0 || read(file, bytes, sizeof bytes) < 0 || close(file) != 0) fail(path);
}

int main(int argc, char **argv) {
    char **paths = NULL, *line = NULL;
    size_t count = 0, space = 0;
    for (ssize_t length; (length = getline(&line, &space, stdin)) > 0;) {
        line[length - 1] = 0;
        paths = realloc(paths, (count + 1) * sizeof *paths);
        if (!paths || !(paths[count++] = strdup(line))) fail("paths");
    }
    if (argc != 3 || count == 0) return 2;
    int whole = strcmp(argv[1], "open") == 0;
    double start = now(), end = start + atof(argv[2]), time = start;
    unsigned long done = 0;
    for (; time < end; time = now())
        for (int burst = 0; burst < 64; burst++) touch(paths[done++ % count], whole);
    printf("%.0f\n", done / (time - start));
}
