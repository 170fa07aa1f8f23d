#include "entries.h"

#include "fault.h"
#include "header.h"
#include "tarhash.h"
#include "walk.h"

#include <string.h>

struct entries {
    PyObject_HEAD
    struct records records;
    int busy;           /* see tarhash_claim() */
    int readers;        /* calls that read the records without the GIL */
    Py_ssize_t exports; /* buffers that others hold: the records must not move */
};

const struct records *entries_borrow(PyObject *entries)
{
    struct entries *self = (struct entries *)entries;
    if (tarhash_claim(&self->busy) < 0)
        return NULL;
    self->busy = 0; /* nobody changes it now, and readers do not exclude each other */
    self->readers++;
    return &self->records;
}

void entries_return(PyObject *entries)
{
    ((struct entries *)entries)->readers--;
}

static PyObject *entries_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"mtime", "uid", "gid", "uname", "gname", "root", NULL};
    const struct tarhash_state *state = PyType_GetModuleState(type);
    long long mtime;
    uint64_t uid, gid;
    const char *uname, *gname, *root;
    struct fault fault;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$LO&O&ssy:Entries", keywords, &mtime,
                                     tarhash_to_uint64, &uid, tarhash_to_uint64, &gid,
                                     &uname, &gname, &root))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct entries *self = (struct entries *)allocate(type, 0);
    if (!self)
        return NULL;
    if (header_init(&self->records.stamp, mtime, uid, gid, uname, gname, &fault) < 0 ||
        records_set_root(&self->records, root, &fault) < 0) {
        Py_DECREF(self);
        return tarhash_raise(state, &fault);
    }
    return (PyObject *)self;
}

static void entries_dealloc(PyObject *object)
{
    struct entries *self = (struct entries *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    records_free(&self->records);
    release(object);
    Py_DECREF(type);
}

static int claim_for_change(struct entries *self)
{
    if (self->exports) {
        PyErr_SetString(PyExc_BufferError, "cannot add entries while a buffer is held");
        return -1;
    }
    return tarhash_claim(self->readers ? &self->readers : &self->busy);
}

PyDoc_STRVAR(entries_add_doc,
"add($self, /, typeflag, name, mode, link=b'')\n--\n\n"
"Append an entry without content: a directory (typeflag b'5', a name that ends in\n"
"a slash), a hard link (b'1') or a symbolic link (b'2'). Raises BufferError while a\n"
"buffer is held.");

static PyObject *entries_add(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"typeflag", "name", "mode", "link", NULL};
    struct entries *self = (struct entries *)object;
    const struct tarhash_state *state = PyType_GetModuleState(Py_TYPE(object));
    char typeflag;
    const char *name, *link = "";
    Py_ssize_t name_length, link_length = 0;
    int mode;
    struct fault fault;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "cy#i|y#:add", keywords, &typeflag,
                                     &name, &name_length, &mode, &link, &link_length))
        return NULL;
    if (tarhash_check_length(name_length) < 0 || tarhash_check_length(link_length) < 0)
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
        return tarhash_raise(state, &fault);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(entries_walk_doc,
"walk($self, path, /)\n--\n\n"
"Append the file at `path` (bytes), below the root, under that name. A directory\n"
"is followed by everything below it, each level in the order of the names as\n"
"Python compares them. Symbolic links are never followed. Raises OSError, with the\n"
"path on disk, for a file that cannot be read, EntryError for one that cannot be in\n"
"a layer, and BufferError while a buffer is held.");

static PyObject *entries_walk(PyObject *object, PyObject *argument)
{
    struct entries *self = (struct entries *)object;
    const struct tarhash_state *state = PyType_GetModuleState(Py_TYPE(object));
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
        return tarhash_raise(state, &fault);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(entries_list_doc,
"list($self, /)\n--\n\n"
"Return all entries, in order: a list of (typeflag, name, mode, link).");

static PyObject *entries_list(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct entries *self = (struct entries *)object;
    const struct tarhash_state *state = PyType_GetModuleState(Py_TYPE(object));
    struct records_cursor cursor = {0};
    struct header_entry entry;
    struct fault fault;

    if (tarhash_claim(&self->busy) < 0)
        return NULL;
    PyObject *list = PyList_New((Py_ssize_t)self->records.count);
    for (size_t i = 0; list && i < self->records.count; i++) {
        PyObject *item = NULL;
        if (records_decode(&self->records, &cursor, &entry, &fault) < 0)
            tarhash_raise(state, &fault);
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

static PyObject *entries_identities(PyObject *object, void *Py_UNUSED(closure))
{
    struct entries *self = (struct entries *)object;
    if (tarhash_claim(&self->busy) < 0)
        return NULL;
    size_t count = self->records.count;
    PyObject *bytes =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * RECORDS_IDENTITY_SIZE));
    uint64_t newest = 0;
    if (bytes)
        newest = records_identities(&self->records, (uint8_t *)PyBytes_AsString(bytes));
    self->busy = 0;
    return bytes ? Py_BuildValue("(NK)", bytes, (unsigned long long)newest) : NULL;
}

static PyObject *entries_tar_size(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct entries *)object)->records.tar_size);
}

static Py_ssize_t entries_length(PyObject *object)
{
    return (Py_ssize_t)((struct entries *)object)->records.count;
}

static int entries_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct entries *self = (struct entries *)object;
    static uint8_t empty;
    uint8_t *records = self->records.bytes ? self->records.bytes : &empty;

    view->obj = NULL; /* what the protocol asks for on failure */
    if (self->busy || self->readers) {
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
    ((struct entries *)object)->exports--;
}

static PyMethodDef entries_methods[] = {
    {"add", (PyCFunction)(void (*)(void))entries_add,
     METH_VARARGS | METH_KEYWORDS, entries_add_doc},
    {"walk", entries_walk, METH_O, entries_walk_doc},
    {"list", entries_list, METH_NOARGS, entries_list_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef entries_getset[] = {
    {"tar_size", entries_tar_size, NULL,
     "Bytes of all entries in a tar: headers, content and padding, no trailer.", NULL},
    {"identities", entries_identities, NULL,
     "The device, inode, modification time and ctime of every entry, as bytes; zeros for\n"
     "one that was not walked. And the latest ctime. Times are nanoseconds since the\n"
     "epoch, modulo 2**64.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(entries_doc,
"Entries(*, mtime, uid, gid, uname, gname, root)\n--\n\n"
"The metadata of one layer, in order. All entries have the same owner and time.\n"
"`root` precedes every name on disk, and is not part of the name. len() counts\n"
"entries. The buffer is a canonical encoding of names, types, modes, sizes and link\n"
"targets, equal for equal trees on every machine.");

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

PyType_Spec entries_spec = {
    .name = "stream._tarhash.Entries",
    .basicsize = sizeof(struct entries),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = entries_slots,
};
