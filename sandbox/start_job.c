/* Runs the tables of system calls that isolation.py writes: see executor.py, whose twin in Python does the same.
 * The point of this file is speed. Between clone and the program's start nothing of the interpreter is touched,
 * and so few of its memory pages are copied. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL 30     /* as in isolation.py */
#define KEPT LONG_MIN  /* as in steps.py */
#define DESCRIPTORS 4

struct row { long number, args[6], keeps; };
struct table { const struct row *rows; long count; };

enum { ENDED, INIT_FAILED, PROGRAM_FAILED };
struct report { int kind, value; long step, cpu_us, peak_kb; };  /* value: a wait status, or an errno */

static void fail(int kind, long step) {
    struct report report = {.kind = kind, .value = errno, .step = step};
    send(CONTROL, &report, sizeof report, MSG_NOSIGNAL);
    _exit(1);
}

/* The index of the step that failed, or -1. */
static long run(const struct table *table) {
    long kept = 0;
    for (long i = 0; i < table->count; i++) {
        const struct row *row = &table->rows[i];
        long a[6];
        for (int j = 0; j < 6; j++) a[j] = row->args[j] == KEPT ? kept : row->args[j];
        long result = syscall(row->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (result < 0) return i;
        if (row->keeps) kept = result;
    }
    return -1;
}

/* One message is one program to start, with its descriptors; they land on 0, 1, 2, 3, which are free. */
static int await_start(void) {
    char byte, space[CMSG_SPACE(sizeof(int) * DESCRIPTORS + sizeof(int))];
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    return recvmsg(CONTROL, &message, 0) == 1;
}

/* Wait for the program, end what it left behind, and say how it ended. */
static void reap(pid_t program) {
    struct report report = {.kind = ENDED};
    struct rusage usage;
    int status;
    pid_t pid;
    while ((pid = wait4(-1, &status, 0, &usage)) > 0 || errno == EINTR) {
        if (pid < 0) continue;
        report.cpu_us += (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000
                       + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
        if (usage.ru_maxrss > report.peak_kb) report.peak_kb = usage.ru_maxrss;
        if (pid == program) {
            report.value = status;
            kill(-1, SIGKILL);  /* all of this namespace but init */
        }
    }
    send(CONTROL, &report, sizeof report, MSG_NOSIGNAL);
}

/* Returns init's pid in the server, 0 in a program that stays the interpreter, -1 if there is no init. */
long start_job(long namespaces, const struct table *init, const struct table *program, int control) {
    long pid = syscall(SYS_clone, namespaces | SIGCHLD, 0, 0, 0, 0);
    if (pid != 0) return pid;
    long failed = run(init);
    if (failed >= 0) {
        dup2(control, CONTROL);
        fail(INIT_FAILED, failed);
    }
    while (await_start()) {
        pid_t child = fork();
        if (child == 0) {
            failed = run(program);
            if (failed >= 0) fail(PROGRAM_FAILED, failed);
            return 0;
        }
        int error = errno;
        syscall(SYS_close_range, 0, CONTROL - 1, 0);
        if (child < 0) {
            errno = error;
            fail(INIT_FAILED, -1);
        }
        reap(child);
    }
    _exit(0);
}
