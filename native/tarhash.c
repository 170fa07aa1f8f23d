/* stream._tarhash: the Python side of the extension. Two types,
 *
 *   Entries   the metadata of one layer
 *   Writer    a file descriptor written through a pool that hashes
 *
 * The GIL is released around every call that reads, writes, waits or walks.
 * An object is used by one thread at a time: a second caller gets a
 * RuntimeError, not a wait, because two threads that write into one archive
 * are a mistake. Different objects share nothing, so threads and
 * sub-interpreters may use as many as they like. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "copy.h"
#include "fault.h"
#include "header.h"
#include "pool.h"
#include "records.h"
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct module_state {
    PyObject *entry_error;
    PyTypeObject *entries_type;
    PyTypeObject *writer_type;
};

static struct PyModuleDef module_definition;

/* ---- faults -> exceptions ---------------------------------------------- */

static PyObject *raise_fault(const struct module_state *state, const struct fault *fault)
{
    PyObject *path = NULL;

    switch (fault->kind) {
    case FAULT_MEMORY:
        return PyErr_NoMemory();
    case FAULT_CRYPTO:
        PyErr_SetString(PyExc_RuntimeError, "libcrypto could not compute SHA-256");
        return NULL;
    case FAULT_STATE:
        PyErr_SetString(PyExc_ValueError, "begin_hash(), end_hash() or digest() out of turn");
        return NULL;
    case FAULT_WRITE:
        errno = fault->errnum;
        return PyErr_SetFromErrno(PyExc_OSError);
    case FAULT_READ:
        path = PyBytes_FromString(fault->path);
        if (path) {
            errno = fault->errnum;
            PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
        }
        break;
    case FAULT_ENTRY:
        path = Py_BuildValue("(ys)", fault->path, fault->reason);
        if (path)
            PyErr_SetObject(state->entry_error, path);
        break;
    case FAULT_INTERRUPTED: /* the signal's handler has set its exception */
    case FAULT_NONE:
        break;
    }
    Py_XDECREF(path);
    return NULL;
}

static int claim(int *busy)
{
    if (*busy) {
        PyErr_SetString(PyExc_RuntimeError, "in use by another thread");
        return -1;
    }
    *busy = 1;
    return 0;
}

static int to_uint64(PyObject *number, void *result)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    if (value == (unsigned long long)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)result = value;
    return 1;
}

enum { MAX_DEVICE = 07777777 }; /* what a header's field holds */
static const uint64_t MAX_GNU_ID = ((uint64_t)1 << 56) - 1;

static int check_length(Py_ssize_t length)
{
    if (length <= 1 << 30)
        return 0;
    PyErr_SetString(PyExc_ValueError, "a name or link target of more than 1 GiB");
    return -1;
}

/* ---- Entries ------------------------------------------------------------ */

struct entries_object {
    PyObject_HEAD
    struct records records;
    int busy;
    Py_ssize_t exports; /* buffers that others hold: the records must not move */
};

static PyObject *entries_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"mtime", "uid", "gid", "uname", "gname", "root", NULL};
    const struct module_state *state = PyType_GetModuleState(type);
    long long mtime;
    uint64_t uid, gid;
    const char *uname, *gname, *root;
    struct fault fault;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$LO&O&ssy:Entries", keywords, &mtime,
                                     to_uint64, &uid, to_uint64, &gid, &uname, &gname, &root))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct entries_object *self = (struct entries_object *)allocate(type, 0);
    if (!self)
        return NULL;
    if (header_init(&self->records.stamp, mtime, uid, gid, uname, gname, &fault) < 0 ||
        records_set_root(&self->records, root, &fault) < 0) {
        Py_DECREF(self);
        return raise_fault(state, &fault);
    }
    return (PyObject *)self;
}

static void entries_dealloc(PyObject *object)
{
    struct entries_object *self = (struct entries_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    records_free(&self->records);
    release(object);
    Py_DECREF(type);
}

static int claim_for_change(struct entries_object *self)
{
    if (self->exports) {
        PyErr_SetString(PyExc_BufferError, "cannot add entries while a buffer is held");
        return -1;
    }
    return claim(&self->busy);
}

PyDoc_STRVAR(entries_add_doc,
"add($self, /, typeflag, name, mode, link=b'')\n--\n\n"
"Append an entry without content: a directory (typeflag b'5', its name ends in\n"
"a slash) or a link (b'1', b'2').");

static PyObject *entries_add_method(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"typeflag", "name", "mode", "link", NULL};
    struct entries_object *self = (struct entries_object *)object;
    const struct module_state *state = PyType_GetModuleState(Py_TYPE(object));
    char typeflag;
    const char *name, *link = "";
    Py_ssize_t name_length, link_length = 0;
    int mode;
    struct fault fault;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "cy#i|y#:add", keywords, &typeflag,
                                     &name, &name_length, &mode, &link, &link_length))
        return NULL;
    if (check_length(name_length) < 0 || check_length(link_length) < 0)
        return NULL;
    if (!strchr("125", typeflag) || !typeflag) {
        PyErr_SetString(PyExc_ValueError, "typeflag must be b'1', b'2' or b'5'");
        return NULL;
    }
    struct header_entry entry = {
        .typeflag = (uint8_t)typeflag,
        .mode = (uint16_t)(mode & 07777),
        .name = (const uint8_t *)name,
        .name_length = (uint32_t)name_length,
        .link = (const uint8_t *)link,
        .link_length = (uint32_t)link_length,
    };
    static const struct records_witness none;
    if (claim_for_change(self) < 0)
        return NULL;
    int result = records_add(&self->records, &entry, &none, &fault);
    self->busy = 0;
    if (result < 0)
        return raise_fault(state, &fault);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(entries_walk_doc,
"walk($self, path, /)\n--\n\n"
"Append the file at `path` (bytes), below the root, under that name and, if it\n"
"is a directory, everything below it: before its own items, in the order of\n"
"their names as Python compares them. Symbolic links are never followed. Raises\n"
"OSError, with the path on disk, for what cannot be read, and EntryError for\n"
"what cannot be in a layer.");

static PyObject *entries_walk_method(PyObject *object, PyObject *argument)
{
    struct entries_object *self = (struct entries_object *)object;
    const struct module_state *state = PyType_GetModuleState(Py_TYPE(object));
    char *path;
    Py_ssize_t length;
    struct fault fault;
    int result;

    if (PyBytes_AsStringAndSize(argument, &path, &length) < 0)
        return NULL;
    if ((size_t)length != strlen(path)) {
        PyErr_SetString(PyExc_ValueError, "embedded null byte in path");
        return NULL;
    }
    if (claim_for_change(self) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = walk_tree(&self->records, path, &fault);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (result < 0)
        return raise_fault(state, &fault);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(entries_list_doc,
"list($self, /)\n--\n\n"
"All entries, in order: a list of (typeflag, name, mode, link).");

static PyObject *entries_list_method(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct entries_object *self = (struct entries_object *)object;
    const struct module_state *state = PyType_GetModuleState(Py_TYPE(object));
    struct records_cursor cursor = {0};
    struct header_entry entry;
    struct fault fault;

    if (claim(&self->busy) < 0)
        return NULL;
    PyObject *list = PyList_New((Py_ssize_t)self->records.count);
    for (size_t i = 0; list && i < self->records.count; i++) {
        PyObject *item = NULL;
        if (records_decode(&self->records, &cursor, &entry, &fault) < 0)
            raise_fault(state, &fault);
        else
            item = Py_BuildValue("(cy#iy#)", (char)entry.typeflag, (const char *)entry.name,
                                 (Py_ssize_t)entry.name_length, (int)entry.mode,
                                 (const char *)entry.link, (Py_ssize_t)entry.link_length);
        if (!item || PyList_SetItem(list, (Py_ssize_t)i, item) < 0)
            Py_CLEAR(list);
    }
    records_cursor_free(&cursor);
    self->busy = 0;
    return list;
}

static PyObject *entries_tar_size(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(
        ((struct entries_object *)object)->records.tar_size);
}

static Py_ssize_t entries_length(PyObject *object)
{
    return (Py_ssize_t)((struct entries_object *)object)->records.count;
}

static int entries_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct entries_object *self = (struct entries_object *)object;
    static uint8_t empty;
    uint8_t *records = self->records.bytes ? self->records.bytes : &empty;

    if (self->busy) {
        PyErr_SetString(PyExc_BufferError, "in use by another thread");
        return -1;
    }
    if (PyBuffer_FillInfo(view, object, records, (Py_ssize_t)self->records.length, 1,
                          flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void entries_release_buffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
    ((struct entries_object *)object)->exports--;
}

static PyMethodDef entries_methods[] = {
    {"add", (PyCFunction)(void (*)(void))entries_add_method,
     METH_VARARGS | METH_KEYWORDS, entries_add_doc},
    {"walk", entries_walk_method, METH_O, entries_walk_doc},
    {"list", entries_list_method, METH_NOARGS, entries_list_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef entries_getset[] = {
    {"tar_size", entries_tar_size, NULL,
     "Bytes of all entries in a tar: headers, content, padding; no trailer.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(entries_doc,
"Entries(*, mtime, uid, gid, uname, gname, root)\n--\n\n"
"The metadata of one layer, in order, every entry with the same owner and time.\n"
"`root` stands before every name on disk, and in none of them.\n"
"len() counts entries. As a buffer it is a canonical encoding of names, types,\n"
"modes, sizes and link targets, equal for equal trees on every machine.");

static PyType_Slot entries_slots[] = {
    {Py_tp_doc, (void *)entries_doc},
    {Py_tp_new, entries_new},
    {Py_tp_dealloc, entries_dealloc},
    {Py_tp_methods, entries_methods},
    {Py_tp_getset, entries_getset},
    {Py_sq_length, entries_length},
    {Py_bf_getbuffer, entries_get_buffer},
    {Py_bf_releasebuffer, entries_release_buffer},
    {0, NULL},
};

static PyType_Spec entries_spec = {
    .name = "stream._tarhash.Entries",
    .basicsize = sizeof(struct entries_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = entries_slots,
};

/* ---- Writer ------------------------------------------------------------- */

struct writer_object {
    PyObject_HEAD
    struct pool *pool; /* NULL once closed */
    int busy;
    uint64_t position; /* once closed */
    PyThreadState *thread; /* of the call under way, while it is without the GIL */
};

/* From the pool, without the GIL: let Python run its signal handlers. */
static int run_signal_handlers(void *context)
{
    struct writer_object *self = context;
    PyEval_RestoreThread(self->thread);
    int raised = PyErr_CheckSignals();
    self->thread = PyEval_SaveThread();
    return raised;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", NULL};
    const struct module_state *state = PyType_GetModuleState(type);
    struct fault fault;
    int fd;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Writer", keywords, &fd))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct writer_object *self = (struct writer_object *)allocate(type, 0);
    if (!self)
        return NULL;
    self->pool = pool_new(fd, run_signal_handlers, self, &fault);
    if (!self->pool) {
        Py_DECREF(self);
        return raise_fault(state, &fault);
    }
    return (PyObject *)self;
}

static void writer_dealloc(PyObject *object)
{
    struct writer_object *self = (struct writer_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->pool)
        pool_free(self->pool);
    release(object);
    Py_DECREF(type);
}

/* A call's frame: claim the writer and drop the GIL; take it back and turn a
 * fault into an exception. */
static int enter(struct writer_object *self)
{
    if (!self->pool) {
        PyErr_SetString(PyExc_ValueError, "the writer is closed");
        return -1;
    }
    if (claim(&self->busy) < 0)
        return -1;
    self->thread = PyEval_SaveThread();
    return 0;
}

static int leave(struct writer_object *self, int result, const struct fault *fault)
{
    PyEval_RestoreThread(self->thread);
    self->busy = 0;
    if (result < 0)
        raise_fault(PyType_GetModuleState(Py_TYPE((PyObject *)self)), fault);
    return result;
}

PyDoc_STRVAR(writer_write_doc,
"write($self, data, /)\n--\n\nWrite `data` (bytes-like).");

static PyObject *writer_write(PyObject *object, PyObject *argument)
{
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;
    Py_buffer data;

    if (PyObject_GetBuffer(argument, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int result = enter(self);
    if (result == 0) {
        result = pool_write(self->pool, data.buf, (size_t)data.len, &fault);
        result = leave(self, result, &fault);
    }
    PyBuffer_Release(&data);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_write_zeros_doc,
"write_zeros($self, count, /)\n--\n\nWrite `count` zero bytes.");

static PyObject *writer_write_zeros(PyObject *object, PyObject *argument)
{
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;
    uint64_t count;

    if (!to_uint64(argument, &count) || enter(self) < 0)
        return NULL;
    if (leave(self, pool_zeros(self->pool, count, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_write_entries_doc,
"write_entries($self, entries, /)\n--\n\n"
"Write every entry of `entries`: header, the content of the file it names,\n"
"padding. Raises OSError with the path for a file that cannot be read, and\n"
"EntryError for one that is not what was walked.");

static PyObject *writer_write_entries(PyObject *object, PyObject *argument)
{
    struct writer_object *self = (struct writer_object *)object;
    const struct module_state *state = PyType_GetModuleState(Py_TYPE(object));
    struct fault fault;

    if (Py_TYPE(argument) != state->entries_type) {
        PyErr_SetString(PyExc_TypeError, "write_entries() takes Entries");
        return NULL;
    }
    struct entries_object *entries = (struct entries_object *)argument;
    if (claim(&entries->busy) < 0)
        return NULL;
    int result = enter(self);
    if (result == 0) {
        result = copy_records(self->pool, &entries->records, &fault);
        result = leave(self, result, &fault);
    }
    entries->busy = 0;
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_copy_doc,
"copy($self, /, fd, count, path, offset=-1)\n--\n\n"
"Copy `count` bytes of file descriptor `fd` from `offset`, or from where it\n"
"stands if that is negative. `path` (bytes) names it in errors: OSError, or\n"
"EntryError if it ends before.");

static PyObject *writer_copy(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "count", "path", "offset", NULL};
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;
    uint64_t count;
    const char *path;
    long long offset = -1;
    int fd;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&y|L:copy", keywords, &fd,
                                     to_uint64, &count, &path, &offset))
        return NULL;
    if (enter(self) < 0)
        return NULL;
    int result = copy_range(self->pool, fd, (off_t)offset, count, path, &fault);
    if (leave(self, result, &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_begin_hash_doc,
"begin_hash($self, /)\n--\n\nBegin a layer: hash what is written from here to end_hash().");

static PyObject *writer_begin_hash(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;

    if (enter(self) < 0 || leave(self, pool_hash_begin(self->pool, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_end_hash_doc,
"end_hash($self, /)\n--\n\n"
"End what begin_hash() began and return its number for digest(). Does not wait.");

static PyObject *writer_end_hash(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;
    size_t number;

    if (enter(self) < 0 ||
        leave(self, pool_hash_end(self->pool, &number, &fault), &fault) < 0)
        return NULL;
    return PyLong_FromSize_t(number);
}

PyDoc_STRVAR(writer_digest_doc,
"digest($self, /, number, wait=True)\n--\n\n"
"The SHA-256 (32 bytes) of what begin_hash() and end_hash() enclosed. Waits for\n"
"it, or returns None if it is not there yet and `wait` is false.");

static PyObject *writer_digest(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"number", "wait", NULL};
    struct writer_object *self = (struct writer_object *)object;
    uint8_t digest[POOL_DIGEST_SIZE];
    struct fault fault;
    uint64_t number;
    int wait = 1;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|p:digest", keywords, to_uint64,
                                     &number, &wait) ||
        enter(self) < 0)
        return NULL;
    int known = leave(self, pool_digest(self->pool, number, wait, digest, &fault), &fault);
    if (known < 0)
        return NULL;
    if (!known)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((char *)digest, POOL_DIGEST_SIZE);
}

PyDoc_STRVAR(writer_flush_doc,
"flush($self, /)\n--\n\nHand everything written so far to the file descriptor.");

static PyObject *writer_flush(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer_object *self = (struct writer_object *)object;
    struct fault fault;

    if (enter(self) < 0 || leave(self, pool_flush(self->pool, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_close_doc,
"close($self, /)\n--\n\n"
"Free the buffers and end the hashing thread. Does not flush, and does not\n"
"close the file descriptor. May be called again.");

static PyObject *writer_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer_object *self = (struct writer_object *)object;

    if (self->busy && claim(&self->busy) < 0)
        return NULL;
    struct pool *pool = self->pool;
    if (pool)
        self->position = pool_position(pool);
    self->pool = NULL;
    if (pool) {
        Py_BEGIN_ALLOW_THREADS
        pool_free(pool);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *writer_position(PyObject *object, void *Py_UNUSED(closure))
{
    struct writer_object *self = (struct writer_object *)object;
    return PyLong_FromUnsignedLongLong(self->pool ? pool_position(self->pool)
                                                  : self->position);
}

static PyMethodDef writer_methods[] = {
    {"write", writer_write, METH_O, writer_write_doc},
    {"write_zeros", writer_write_zeros, METH_O, writer_write_zeros_doc},
    {"write_entries", writer_write_entries, METH_O, writer_write_entries_doc},
    {"copy", (PyCFunction)(void (*)(void))writer_copy, METH_VARARGS | METH_KEYWORDS,
     writer_copy_doc},
    {"begin_hash", writer_begin_hash, METH_NOARGS, writer_begin_hash_doc},
    {"end_hash", writer_end_hash, METH_NOARGS, writer_end_hash_doc},
    {"digest", (PyCFunction)(void (*)(void))writer_digest, METH_VARARGS | METH_KEYWORDS,
     writer_digest_doc},
    {"flush", writer_flush, METH_NOARGS, writer_flush_doc},
    {"close", writer_close, METH_NOARGS, writer_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_getset[] = {
    {"position", writer_position, NULL,
     "Bytes taken so far. May be read by any thread while another writes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(writer_doc,
"Writer(fd)\n--\n\n"
"Writes to a file descriptor through fixed buffers, and computes SHA-256 over\n"
"stretches of what passes in a thread of its own.");

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, (void *)writer_doc},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getset},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "stream._tarhash.Writer",
    .basicsize = sizeof(struct writer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};

/* ---- the module --------------------------------------------------------- */

PyDoc_STRVAR(encode_header_doc,
"encode_header(name, mode, size, mtime, *, link=b'', typeflag=b'0', uid=0, gid=0,\n"
"              uname='', gname='', device=(0, 0), records=b'', gnu=False)\n--\n\n"
"The header blocks (bytes) of one member, a regular file unless typeflag says\n"
"otherwise; records are further PAX records, encoded. With gnu, they are in GNU\n"
"tar's own format, which has PAX records for these alone, and no uname or gname.");

static PyObject *encode_header(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "mode", "size", "mtime", "link", "typeflag", "uid",
                               "gid", "uname", "gname", "device", "records", "gnu", NULL};
    const struct module_state *state = PyModule_GetState(module);
    struct header_entry entry = {.typeflag = '0'};
    struct header_stamp stamp;
    struct fault fault;
    const char *name, *link = "", *records = "", *uname = "", *gname = "";
    Py_ssize_t name_length, link_length = 0, records_length = 0;
    uint64_t uid = 0, gid = 0;
    unsigned int major = 0, minor = 0;
    long long mtime;
    int mode, gnu = 0;
    PyObject *header = NULL;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "y#iO&L|$y#cO&O&yy(II)y#p:encode_header", keywords, &name,
            &name_length, &mode, to_uint64, &entry.size, &mtime, &link, &link_length,
            (char *)&entry.typeflag, to_uint64, &uid, to_uint64, &gid, &uname, &gname, &major,
            &minor, &records, &records_length, &gnu) ||
        check_length(name_length) < 0 || check_length(link_length) < 0 ||
        check_length(records_length) < 0)
        return NULL;
    if (major > MAX_DEVICE || minor > MAX_DEVICE) {
        PyErr_SetString(PyExc_ValueError, "a device number that no tar can hold");
        return NULL;
    }
    if (gnu && (uid > MAX_GNU_ID || gid > MAX_GNU_ID)) {
        PyErr_SetString(PyExc_ValueError, "an owner's number that no tar can hold");
        return NULL;
    }
    entry.mode = (uint16_t)(mode & 07777);
    entry.name = (const uint8_t *)name;
    entry.name_length = (uint32_t)name_length;
    entry.link = (const uint8_t *)link;
    entry.link_length = (uint32_t)link_length;
    if (gnu)
        header_init_gnu(&stamp, mtime, uid, gid);
    else if (header_init(&stamp, mtime, uid, gid, uname, gname, &fault) < 0)
        return raise_fault(state, &fault);
    if (entry.typeflag == '3' || entry.typeflag == '4')
        header_set_device(&stamp, major, minor);
    if (header_add_records(&stamp, (const uint8_t *)records, (size_t)records_length,
                           &fault) < 0) {
        raise_fault(state, &fault);
        goto done;
    }
    header = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)header_size(&stamp, &entry));
    if (header)
        header_encode(&stamp, &entry, (uint8_t *)PyBytes_AsString(header));
done:
    header_free(&stamp);
    return header;
}

static PyMethodDef module_methods[] = {
    {"encode_header", (PyCFunction)(void (*)(void))encode_header,
     METH_VARARGS | METH_KEYWORDS, encode_header_doc},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    state->entry_error = PyErr_NewExceptionWithDoc(
        "stream._tarhash.EntryError",
        "A file that cannot be written as an entry: arguments path (bytes) and reason.",
        NULL, NULL);
    if (!state->entry_error ||
        PyModule_AddObjectRef(module, "EntryError", state->entry_error) < 0)
        return -1;
    state->entries_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &entries_spec, NULL);
    if (!state->entries_type || PyModule_AddType(module, state->entries_type) < 0)
        return -1;
    state->writer_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &writer_spec, NULL);
    if (!state->writer_type || PyModule_AddType(module, state->writer_type) < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->entry_error);
    Py_VISIT(state->entries_type);
    Py_VISIT(state->writer_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->entry_error);
    Py_CLEAR(state->entries_type);
    Py_CLEAR(state->writer_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "stream._tarhash",
    .m_doc = "Tar entries from directory trees, written and hashed in one pass.",
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__tarhash(void)
{
    return PyModuleDef_Init(&module_definition);
}
