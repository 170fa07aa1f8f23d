/* Loaded before libc (LD_PRELOAD), makes system calls misbehave at a known place.
 *
 *   WORLD_ROOT   only files below this directory are watched
 *   WORLD_LOG    append a line for each open ("open PATH"), each read that
 *                returns bytes ("read COUNT PATH"), each sendfile that moves
 *                bytes ("send COUNT PATH")
 *   WORLD_READ   of watched files: short:N  at most N bytes per call
 *                                  eintr    every other call is interrupted
 *                                  eio:N    the N-th call of the run fails
 *   WORLD_SEND   of sendfile from watched files: short:N, eintr, eagain (every other
 *                call), einval, eio (all)
 *   WORLD_WRITE  of the largest descriptor's kind asked for in WORLD_FD:
 *                short:N, eintr, eagain, enospc:N (after N bytes)
 *   WORLD_FD     the descriptor whose writes misbehave (default 1)
 *   WORLD_WALK   each stat of a watched directory entry takes N milliseconds
 *   WORLD_SIGNAL raise this signal just before a watched file is opened for writing
 *   WORLD_THREAD no thread starts whose code is in a library with this in its name
 *   WORLD_PAUSE  FIFO:N:PATH  before the N-th read of PATH, write a byte to the
 *                FIFO and wait to read one from it with ".back" after its name
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char *paths[4096]; /* of watched descriptors */

static int watched(const char *path)
{
    const char *root = getenv("WORLD_ROOT");
    return root && path && !strncmp(path, root, strlen(root));
}

static void note(const char *format, ...)
{
    const char *log = getenv("WORLD_LOG");
    char line[8192];
    va_list arguments;
    if (!log)
        return;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    syscall(SYS_write, fd, line, (size_t)length);
    syscall(SYS_close, fd);
}

/* Return the number after `name:` in the variable, 1 for `name` alone, or 0 for any other value. */
static long asked(const char *variable, const char *name)
{
    const char *value = getenv(variable);
    size_t length = strlen(name);
    if (!value || strncmp(value, name, length))
        return 0;
    return value[length] == ':' ? atol(value + length + 1) : 1;
}

static int opened(const char *path, int fd)
{
    if (fd >= 0 && fd < 4096) {
        int saved = errno;
        free(paths[fd]);
        paths[fd] = watched(path) ? strdup(path) : NULL;
        if (paths[fd])
            note("open %s\n", path);
        errno = saved;
    }
    return fd;
}

static void pause_before_read(const char *path)
{
    static long count;
    const char *value = getenv("WORLD_PAUSE");
    char fifo[4096], back[4200], byte = 0;
    long number;
    int at = 0;
    if (!value || sscanf(value, "%4095[^:]:%ld:%n", fifo, &number, &at) < 2 ||
        strcmp(value + at, path) || ++count != number)
        return;
    snprintf(back, sizeof back, "%s.back", fifo);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, fifo, O_WRONLY);
    syscall(SYS_write, fd, &byte, 1);
    syscall(SYS_close, fd);
    fd = (int)syscall(SYS_openat, AT_FDCWD, back, O_RDONLY);
    syscall(SYS_read, fd, &byte, 1);
    syscall(SYS_close, fd);
}

/* Act before a read of a watched file. Returns 0, or -1 with errno set. */
static int before_read(int fd, size_t *count)
{
    static long calls, interruptions;
    long limit;
    pause_before_read(paths[fd]);
    calls++;
    if ((limit = asked("WORLD_READ", "short")) && *count > (size_t)limit)
        *count = (size_t)limit;
    if (asked("WORLD_READ", "eintr") && interruptions++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    if (asked("WORLD_READ", "eio") == calls) {
        errno = EIO;
        return -1;
    }
    return 0;
}

static ssize_t after_read(int fd, ssize_t got)
{
    if (got > 0)
        note("read %zd %s\n", got, paths[fd]);
    return got;
}

#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) \
        next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void before_open(const char *path, int flags)
{
    const char *signum = getenv("WORLD_SIGNAL");
    if (signum && (flags & O_ACCMODE) == O_WRONLY && watched(path))
        raise(atoi(signum));
}

#define OPEN(function) \
    int function(const char *path, int flags, ...) \
    { \
        NEXT(int, #function, const char *, int, ...); \
        va_list arguments; \
        va_start(arguments, flags); \
        int mode = va_arg(arguments, int); \
        va_end(arguments); \
        before_open(path, flags); \
        return opened(path, next(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function) \
    int function(int directory, const char *path, int flags, ...) \
    { \
        NEXT(int, #function, int, const char *, int, ...); \
        char whole[8192]; \
        va_list arguments; \
        va_start(arguments, flags); \
        int mode = va_arg(arguments, int); \
        va_end(arguments); \
        int fd = next(directory, path, flags, mode); \
        if (path[0] != '/' && directory >= 0 && directory < 4096 && paths[directory]) { \
            snprintf(whole, sizeof whole, "%s/%s", paths[directory], path); \
            path = whole; \
        } \
        return opened(path, fd); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FSTATAT(function, status) \
    int function(int directory, const char *path, struct status *result, int flags) \
    { \
        NEXT(int, #function, int, const char *, struct status *, int); \
        long delay = asked("WORLD_WALK", "delay"); \
        if (delay && directory >= 0 && directory < 4096 && paths[directory]) { \
            struct timespec time = {delay / 1000, delay % 1000 * 1000000}; \
            nanosleep(&time, NULL); \
        } \
        return next(directory, path, result, flags); \
    }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

ssize_t read(int fd, void *data, size_t count)
{
    NEXT(ssize_t, "read", int, void *, size_t);
    if (fd < 0 || fd >= 4096 || !paths[fd])
        return next(fd, data, count);
    if (before_read(fd, &count) < 0)
        return -1;
    return after_read(fd, next(fd, data, count));
}

#define PREAD(function) \
    ssize_t function(int fd, void *data, size_t count, off_t offset) \
    { \
        NEXT(ssize_t, #function, int, void *, size_t, off_t); \
        if (fd < 0 || fd >= 4096 || !paths[fd]) \
            return next(fd, data, count, offset); \
        if (before_read(fd, &count) < 0) \
            return -1; \
        return after_read(fd, next(fd, data, count, offset)); \
    }
PREAD(pread)
PREAD(pread64)

#define SENDFILE(function) \
    ssize_t function(int output, int fd, off_t *offset, size_t count) \
    { \
        NEXT(ssize_t, #function, int, int, off_t *, size_t); \
        static unsigned long calls; \
        long limit = asked("WORLD_SEND", "short"); \
        int faulty = calls++ % 2 == 0; \
        if (fd < 0 || fd >= 4096 || !paths[fd]) \
            return next(output, fd, offset, count); \
        errno = asked("WORLD_SEND", "eintr") && faulty  ? EINTR : \
                asked("WORLD_SEND", "eagain") && faulty ? EAGAIN : \
                asked("WORLD_SEND", "einval")           ? EINVAL : \
                asked("WORLD_SEND", "eio")              ? EIO : 0; \
        if (errno) \
            return -1; \
        if (limit && count > (size_t)limit) \
            count = (size_t)limit; \
        ssize_t moved = next(output, fd, offset, count); \
        if (moved > 0) \
            note("send %zd %s\n", moved, paths[fd]); \
        return moved; \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)

ssize_t write(int fd, const void *data, size_t count)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    static unsigned long calls, passed;
    const char *which = getenv("WORLD_FD");
    if (fd != (which ? atoi(which) : 1))
        return next(fd, data, count);
    long limit = asked("WORLD_WRITE", "short");
    if (limit && count > (size_t)limit)
        count = (size_t)limit;
    if ((asked("WORLD_WRITE", "eintr") || asked("WORLD_WRITE", "eagain")) && calls++ % 2 == 0) {
        errno = asked("WORLD_WRITE", "eintr") ? EINTR : EAGAIN;
        return -1;
    }
    if ((limit = asked("WORLD_WRITE", "enospc"))) {
        if (passed >= (unsigned long)limit) {
            errno = ENOSPC;
            return -1;
        }
        if (count > (unsigned long)limit - passed)
            count = (unsigned long)limit - passed;
    }
    ssize_t written = next(fd, data, count);
    if (written > 0)
        passed += (unsigned long)written;
    return written;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*code)(void *),
                   void *argument)
{
    NEXT(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    const char *refused = getenv("WORLD_THREAD");
    Dl_info library;
    if (refused && dladdr((void *)code, &library) && strstr(library.dli_fname, refused))
        return EAGAIN;
    return next(thread, attributes, code, argument);
}
