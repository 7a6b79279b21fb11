/*
 * Gives standard input back with its letters a to z in upper case.
 *
 * Standard input is the first blob argument. What goes wrong is said on standard error, and ends with another exit
 * status than 0: then the call fails, and nothing is remembered of it.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    for (int c; (c = getchar()) != EOF;) putchar(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    if (ferror(stdin) || fflush(stdout) != 0) {
        fprintf(stderr, "NAME: can't read the text to its end: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
