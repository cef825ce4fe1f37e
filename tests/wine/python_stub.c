/* Stands in for python.exe and py.exe: writes down how it was called and exits as ordered.
 *
 * Each call appends one line to the file named by STUB_LOG:
 *     <program>|<current directory>|<VIRTUAL_ENV>|<arguments>
 * STUB_EXIT holds pairs "text=code;": the first text that occurs in the arguments gives the code.
 */
#include <direct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ordered_exit_code(const char *called) {
    const char *orders = getenv("STUB_EXIT");
    char text[256];
    int code;
    while (orders != NULL && sscanf(orders, "%255[^=]=%d", text, &code) == 2) {
        if (strstr(called, text) != NULL) return code;
        orders = strchr(orders, ';');
        if (orders != NULL) orders++;
    }
    return 0;
}

int main(int argc, char **argv) {
    char called[2048] = "", directory[1024] = "";
    const char *environment = getenv("VIRTUAL_ENV");
    for (int i = 1; i < argc; i++) {
        if (i > 1) strncat(called, " ", sizeof called - strlen(called) - 1);
        strncat(called, argv[i], sizeof called - strlen(called) - 1);
    }
    const char *name = strrchr(argv[0], '\\');
    FILE *log = fopen(getenv("STUB_LOG"), "a");
    if (log == NULL) return 99;
    fprintf(log, "%s|%s|%s|%s\n", name != NULL ? name + 1 : argv[0],
            _getcwd(directory, sizeof directory), environment != NULL ? environment : "", called);
    fclose(log);
    return ordered_exit_code(called);
}
