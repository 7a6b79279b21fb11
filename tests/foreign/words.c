/* The lines of a file, sorted, by way of a file in /tmp that is written, read back and removed. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

int main(int argc, char **argv) {
    static char *lines[1000], line[1000];
    int count = 0, entries = 0;
    must(argc == 2, "usage: words FILE");
    FILE *in = fopen(argv[1], "r"), *copy = fopen("/tmp/copy", "w+");
    must(in && copy, argv[1]);
    while (fgets(line, sizeof line, in))
        fputs(line, copy);
    rewind(copy);
    while (count < 1000 && fgets(line, sizeof line, copy))
        lines[count++] = strdup(line);
    qsort(lines, count, sizeof *lines, compare);
    must(mkdir("work", 0777) == 0 && chdir("work") == 0, "work");
    must(rename("/tmp/copy", "moved") == 0 && access("moved", R_OK) == 0, "moved");
    must(access("/tmp/copy", R_OK) != 0 && errno == ENOENT, "/tmp/copy");
    DIR *directory = opendir(".");
    for (struct dirent *entry; (entry = readdir(directory));)
        entries += entry->d_name[0] != '.';
    must(entries == 1 && unlink("moved") == 0 && rmdir("/work") == 0, "/work");
    for (int i = 0; i < count; i++)
        fputs(lines[i], stdout);
    return 0;
}
