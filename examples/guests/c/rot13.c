/* Writes a file in rot13: rot13 [FILE]. Without a file it reads standard input. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int rot13(int c) {
    if (c >= 'a' && c <= 'z') return 'a' + (c - 'a' + 13) % 26;
    if (c >= 'A' && c <= 'Z') return 'A' + (c - 'A' + 13) % 26;
    return c;
}

int main(int argc, char **argv) {
    FILE *in = argc > 1 ? fopen(argv[1], "rb") : stdin;
    if (in == NULL) {
        fprintf(stderr, "rot13: can't read %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    for (int c; (c = getc(in)) != EOF;) putchar(rot13(c));
    if (ferror(in)) {
        fprintf(stderr, "rot13: can't read to the end: %s\n", strerror(errno));
        return 1;
    }
    if (fflush(stdout) != 0) {
        fprintf(stderr, "rot13: can't write the result: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
