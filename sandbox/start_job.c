/* Runs the tables of system calls that isolation.py writes: see executor.py, whose twin in Python does the same.
 * The point of this file is speed. Between clone and the program's start nothing of the interpreter is touched,
 * and so few of its memory pages are copied. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As in isolation.py, steps.py and executor.py. */
enum { FIRST_CONTROL = 0, CONTROL = 30 };
enum { NUMBER, BYTES, STRINGS, KIND_BITS = 2 };
enum { ENDED, INIT_FAILED, PROGRAM_FAILED };
#define KEPT LONG_MIN
#define DESCRIPTORS 4
#define ORDER_BYTES (1 << 16)

struct row { long number, args[6], kinds, keeps; };
struct table { const struct row *rows; long count; char *memory; };
struct report { int kind, value; long step, cpu_us, peak_kb; };  /* value: a wait status, or an errno */
/* An order to start a job: this, the rows of init and of its programs, then the memory of both. */
struct order { long namespaces, init_rows, program_rows, init_bytes, program_bytes, note; };

static void fail(int kind, long step) {
    struct report report = {.kind = kind, .value = errno, .step = step};
    send(CONTROL, &report, sizeof report, MSG_NOSIGNAL);
    _exit(1);
}

static long address(const struct table *table, long arg, int kind) {
    if (kind == NUMBER) return arg;
    if (kind == STRINGS)  /* once: after it the process is another program, or ends */
        for (long *string = (long *)(table->memory + arg); *string; string++) *string += (long)table->memory;
    return (long)(table->memory + arg);
}

/* The index of the step that failed, or -1. */
static long run(const struct table *table) {
    long kept = 0;
    for (long i = 0; i < table->count; i++) {
        const struct row *row = &table->rows[i];
        long a[6];
        for (int j = 0; j < 6; j++)
            a[j] = row->args[j] == KEPT ? kept : address(table, row->args[j], row->kinds >> (KIND_BITS * j) & 3);
        long result = syscall(row->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (result < 0) return i;
        if (row->keeps) kept = result;
    }
    return -1;
}

/* A message and its descriptors, which land on the lowest numbers that are free: 0, 1, 2, 3. */
static long receive(int from, void *bytes, size_t size) {
    char space[CMSG_SPACE(sizeof(int) * DESCRIPTORS + sizeof(int))];
    struct iovec piece = {bytes, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    return recvmsg(from, &message, 0);
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

/* A job's init: one message is one program to start. Returns in a program that stays the interpreter. */
static void init(const struct table *confine, const struct table *program) {
    long failed = run(confine);
    if (failed >= 0) {
        dup2(FIRST_CONTROL, CONTROL);
        fail(INIT_FAILED, failed);
    }
    char byte;
    while (receive(CONTROL, &byte, 1) == 1) {
        pid_t child = fork();
        if (child == 0) {
            failed = run(program);
            if (failed >= 0) fail(PROGRAM_FAILED, failed);
            return;
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

/* What the server forks once, and jobs are cloned from: as the server's children, by order. Its answer is init's pid,
 * or an errno below 0. Returns in a program that stays the interpreter, with the order's note. */
long follow_orders(int server) {
    static union { struct order order; char bytes[ORDER_BYTES]; } message;
    const struct order *order = &message.order;
    while (receive(server, &message, sizeof message) > (long)sizeof *order) {
        struct row *rows = (struct row *)(order + 1);
        char *memory = (char *)(rows + order->init_rows + order->program_rows);
        struct table confine = {rows, order->init_rows, memory};
        struct table program = {rows + order->init_rows, order->program_rows, memory + order->init_bytes};
        long pid = syscall(SYS_clone, order->namespaces | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) {
            init(&confine, &program);
            return order->note;
        }
        if (pid < 0) pid = -errno;
        syscall(SYS_close_range, 0, CONTROL - 1, 0);
        send(server, &pid, sizeof pid, MSG_NOSIGNAL);
    }
    _exit(0);
}
