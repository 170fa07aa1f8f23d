/* Makes system calls itself, as a program in Go does: fakeroot's preload never sees them.
 * Arguments: the name of a call, then what it takes; prints "ok" or the error's name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void *own_many(void *directory)
{
    char path[4096];
    for (int i = 0; i < 20; i++) {
        snprintf(path, sizeof path, "%s/%d", (char *)directory, i);
        close(open(path, O_CREAT | O_WRONLY, 0644));
        syscall(SYS_fchownat, AT_FDCWD, path, i + 1, 1000 + i, 0);
    }
    return NULL;
}

#ifdef __x86_64__
/* A system call of i386, which every x86-64 kernel has; the path must be at a low address. */
static long call_i386(long number, const char *path, int uid, int gid)
{
    static char low[4096];
    long result;
    strcpy(low, path);
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(low), "c"(uid), "d"(gid) : "memory");
    errno = result < 0 ? -result : 0;
    return result;
}
#endif

static long call(char **word)
{
    const char *name = word[0];
    if (!strcmp(name, "fchown"))
        return syscall(SYS_fchown, open(word[1], O_RDONLY), atoi(word[2]), atoi(word[3]));
    if (!strcmp(name, "fchownat"))
        return syscall(SYS_fchownat, open(word[1], O_PATH), word[2], atoi(word[3]), atoi(word[4]),
                       atoi(word[5]));
    if (!strcmp(name, "mknodat"))
        return syscall(SYS_mknodat, AT_FDCWD, word[1], strtol(word[2], NULL, 8),
                       makedev(atoi(word[3]), atoi(word[4])));
#ifdef __x86_64__
    if (!strcmp(name, "i386"))
        return call_i386(atoi(word[1]), word[2], atoi(word[3]), atoi(word[4]));
#endif
    if (!strcmp(name, "bad"))
        return syscall(SYS_fchownat, AT_FDCWD, 8, 1, 1, 0);
    if (!strcmp(name, "threads")) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++)
            pthread_create(&threads[i], NULL, own_many, word[1 + i]);
        for (int i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
        return 0;
    }
    if (!strcmp(name, "inside")) {
        if (unshare(CLONE_NEWUSER) || chroot(word[1]) || chdir("/"))
            return -1;
        return call(word + 2);
    }
    return -1;
}

int main(int argc, char **argv)
{
    (void)argc;
    puts(call(argv + 1) ? strerrorname_np(errno) : "ok");
    return 0;
}
