/*
 * Prints what a path holds, in upper case: shout PATH.
 *
 * PATH may be a call, such as /grid/local/wc/<hash of a file>: opening it runs the call, and reading it reads the
 * result. The program needs no library for that; to it, the path is a file.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int upper(int c) {
    return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "shout: usage: shout PATH: %d arguments were given, not one\n", argc - 1);
        return 2;
    }
    FILE *in = fopen(argv[1], "rb");
    if (in == NULL) {
        fprintf(stderr, "shout: can't read %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    for (int c; (c = getc(in)) != EOF;) putchar(upper(c));
    if (ferror(in)) {
        fprintf(stderr, "shout: can't read %s to the end: %s\n", argv[1], strerror(errno));
        return 1;
    }
    if (fflush(stdout) != 0) {
        fprintf(stderr, "shout: can't write the result: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
