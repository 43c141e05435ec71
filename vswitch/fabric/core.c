/* SPDX-License-Identifier: BSD-2-Clause */
/* The Python face of the engine: `vswitch.fabric.core`. Glue only; what it offers is described in core.pyi.
 *
 * Each method packs its arguments into a struct, has the loop run one function on it with the GIL released, and makes
 * Python objects of what that left in the struct. Only the loop touches ports and switches.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine.h"
#include "pause.h"
#include "switch.h"
#include "vlan.h"

typedef struct {
	PyObject_HEAD struct engine *engine;
} EngineObject;

static void call(struct engine *engine, void (*run)(struct engine *engine, void *arg), void *arg)
{
	PyThreadState *state = PyEval_SaveThread();

	vsw_engine_call(engine, run, arg);
	PyEval_RestoreThread(state);
}

static struct engine *running_engine(EngineObject *self)
{
	if (!self->engine)
		PyErr_SetString(PyExc_ValueError, "the engine is closed");
	return self->engine;
}

static PyObject *raise_errno(int ret)
{
	errno = -ret;
	return PyErr_SetFromErrno(PyExc_OSError);
}

/* --- life --- */

static PyObject *engine_create(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { NULL };
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	EngineObject *self;
	int ret;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Engine", names))
		return NULL;
	self = (EngineObject *)allocate(type, 0);
	if (!self)
		return NULL;
	ret = vsw_engine_new(&self->engine);
	if (!ret)
		ret = vsw_engine_start(self->engine);
	if (ret) {
		Py_DECREF(self);
		return raise_errno(ret);
	}
	return (PyObject *)self;
}

static void end_engine(EngineObject *self)
{
	struct engine *engine = self->engine;
	PyThreadState *state;

	self->engine = NULL;
	if (!engine)
		return;
	state = PyEval_SaveThread();
	vsw_engine_free(engine);
	PyEval_RestoreThread(state);
}

static void engine_dealloc(EngineObject *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	end_engine(self);
	release(self);
	Py_DECREF(type);
}

static PyObject *engine_close(EngineObject *self, PyObject *unused)
{
	(void)unused;
	end_engine(self);
	Py_RETURN_NONE;
}

static PyObject *engine_fileno(EngineObject *self, PyObject *unused)
{
	(void)unused;
	return running_engine(self) ? PyLong_FromLong(self->engine->event_fd) : NULL;
}

static PyObject *raise_key_error(void)
{
	PyErr_SetNone(PyExc_KeyError);
	return NULL;
}

/* What a function that ran in the loop returned: NULL with the exception set when it is not 0. */
static PyObject *none_or_raise(int ret)
{
	if (ret == -ENOENT)
		return raise_key_error();
	if (ret)
		return raise_errno(ret);
	Py_RETURN_NONE;
}

/* --- switches --- */

#define FDB_LIMIT_MAX (1U << 24)

/* Check and convert. Return false with ValueError set. */
static bool read_fdb_settings(double ageing, unsigned int fdb_limit, struct switch_settings *settings)
{
	if (!(ageing >= 0) || fdb_limit > FDB_LIMIT_MAX) {
		PyErr_Format(PyExc_ValueError, "ageing must not be negative, fdb_limit not over %u", FDB_LIMIT_MAX);
		return false;
	}
	settings->ageing = ageing < 1e9 ? (uint64_t)(ageing * 1e9) : UINT64_MAX;
	settings->fdb_limit = fdb_limit;
	return true;
}

struct add_switch {
	bool hub;
	struct switch_settings settings; /* ageing and fdb_limit only */
	int ret;
	uint32_t id;
};

static void run_add_switch(struct engine *engine, void *arg)
{
	struct add_switch *request = arg;
	struct vsw_switch *sw;

	request->ret = vsw_switch_new(engine, request->hub, request->settings.ageing, request->settings.fdb_limit, &sw);
	if (!request->ret)
		request->id = sw->id;
}

static PyObject *engine_add_switch(EngineObject *self, PyObject *args)
{
	struct add_switch request;
	int hub;
	double ageing;
	unsigned int fdb_limit;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "pdI:add_switch", &hub, &ageing, &fdb_limit))
		return NULL;
	request = (struct add_switch){ .hub = hub };
	if (!read_fdb_settings(ageing, fdb_limit, &request.settings))
		return NULL;
	call(self->engine, run_add_switch, &request);
	return request.ret ? raise_errno(request.ret) : PyLong_FromUnsignedLong(request.id);
}

struct configure_switch {
	uint32_t id;
	struct switch_settings settings;
	int ret;
};

static void run_configure_switch(struct engine *engine, void *arg)
{
	struct configure_switch *request = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, request->id);

	request->ret = sw ? 0 : -ENOENT;
	if (sw)
		vsw_switch_configure(sw, &request->settings);
}

/* Check and convert. Return false with ValueError set. */
static bool read_reserved(const char *policies, Py_ssize_t n, struct switch_settings *settings)
{
	bool good = n == RESERVED_GROUPS;

	for (Py_ssize_t i = 0; good && i < n; i++) {
		settings->reserved[i] = (uint8_t)policies[i];
		good = settings->reserved[i] < NUM_RESERVED_POLICIES;
	}
	if (!good)
		PyErr_Format(PyExc_ValueError, "reserved must be %d bytes below %d", RESERVED_GROUPS,
			     NUM_RESERVED_POLICIES);
	return good;
}

static PyObject *engine_configure_switch(EngineObject *self, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "", "ageing", "fdb_limit", "vlan_filtering", "vlan_protocol", "reserved", NULL };
	struct configure_switch request = { 0 };
	unsigned int id, fdb_limit, vlan_protocol;
	int vlan_filtering;
	double ageing;
	const char *reserved;
	Py_ssize_t n_reserved;

	if (!running_engine(self) ||
	    !PyArg_ParseTupleAndKeywords(args, keywords, "I$dIpIy#:configure_switch", names, &id, &ageing, &fdb_limit,
					 &vlan_filtering, &vlan_protocol, &reserved, &n_reserved))
		return NULL;
	if (vlan_protocol != VLAN_8021Q && vlan_protocol != VLAN_8021AD)
		return PyErr_Format(PyExc_ValueError, "vlan_protocol must be %d or %d", VLAN_8021Q, VLAN_8021AD);
	request.id = id;
	request.settings.vlan_filtering = vlan_filtering;
	request.settings.vlan_protocol = (uint16_t)vlan_protocol;
	if (!read_fdb_settings(ageing, fdb_limit, &request.settings) ||
	    !read_reserved(reserved, n_reserved, &request.settings))
		return NULL;
	call(self->engine, run_configure_switch, &request);
	return none_or_raise(request.ret);
}

struct by_id {
	uint32_t id;
	bool found;
};

static void run_remove_switch(struct engine *engine, void *arg)
{
	struct by_id *request = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, request->id);

	request->found = sw;
	if (sw)
		vsw_switch_free(sw);
}

static void run_remove_port(struct engine *engine, void *arg)
{
	struct by_id *request = arg;
	struct port *port = vsw_engine_port(engine, request->id);

	request->found = port;
	if (port)
		vsw_port_free(port);
}

/* Its peer has gone: the port stays, with its counters, until it is removed. */
struct end_request {
	unsigned int id;
	const char *reason;
	bool found;
};

static void run_end_port(struct engine *engine, void *arg)
{
	struct end_request *request = arg;
	struct port *port = vsw_engine_port(engine, request->id);

	request->found = port;
	if (port)
		vsw_port_peer_gone(port, request->reason);
}

static PyObject *engine_end_port(EngineObject *self, PyObject *args)
{
	struct end_request request = { 0 };

	if (!running_engine(self) || !PyArg_ParseTuple(args, "Is", &request.id, &request.reason))
		return NULL;
	call(self->engine, run_end_port, &request);
	return none_or_raise(request.found ? 0 : -ENOENT);
}

static PyObject *remove_by_id(EngineObject *self, PyObject *args, void (*run)(struct engine *engine, void *arg))
{
	struct by_id request = { 0 };
	unsigned int id;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "I", &id))
		return NULL;
	request.id = id;
	call(self->engine, run, &request);
	return none_or_raise(request.found ? 0 : -ENOENT);
}

static PyObject *engine_remove_switch(EngineObject *self, PyObject *args)
{
	return remove_by_id(self, args, run_remove_switch);
}

static PyObject *engine_remove_port(EngineObject *self, PyObject *args)
{
	return remove_by_id(self, args, run_remove_port);
}

/* --- ports --- */

/* Check and convert. Return false with ValueError set. */
static bool read_vlans(const char *members, Py_ssize_t n_members, long long pvid, struct port_settings *settings)
{
	if (n_members != sizeof(settings->members)) {
		PyErr_Format(PyExc_ValueError, "members must be %zu bytes", sizeof(settings->members));
		return false;
	}
	memcpy(settings->members, members, sizeof(settings->members));
	if (vsw_is_member(settings, 0) || vsw_is_member(settings, VLAN_LAST + 1)) {
		PyErr_Format(PyExc_ValueError, "a port cannot be in VLAN 0 or %d", VLAN_LAST + 1);
		return false;
	}
	if (pvid < 0 || pvid > VLAN_LAST || (pvid && !vsw_is_member(settings, (uint16_t)pvid))) {
		PyErr_Format(PyExc_ValueError, "pvid %lld is not among the port's VLANs", pvid);
		return false;
	}
	settings->pvid = (uint16_t)pvid;
	return true;
}

/* Check and convert. Return false with ValueError set. */
static bool read_limit(const char *name, long long value, uint32_t *limit)
{
	if (value < 0 || value > UINT32_MAX) {
		PyErr_Format(PyExc_ValueError, "%s must be 0 to %u, not %lld", name, UINT32_MAX, value);
		return false;
	}
	*limit = (uint32_t)value;
	return true;
}

/* Read what is given by keyword to configure_port() and add_port(). Return false with an exception set. */
static bool read_port_settings(PyObject *keywords, struct port_settings *settings)
{
	static char *names[] = { "members",         "pvid",          "isolated",
				 "learning",        "unknown_flood", "broadcast_flood",
				 "multicast_flood", "sticky",        "hairpin",
				 "control",         "overflow_drop", "storm_limit",
				 "mac_limit",       "mtu",           NULL };
	long long pvid, storm_limit, mac_limit, mtu;
	int isolated, learning, unknown, broadcast, multicast, sticky, hairpin, control, overflow_drop;
	PyObject *nothing = PyTuple_New(0);
	const char *members;
	Py_ssize_t n_members;
	bool ok;

	ok = nothing &&
	     PyArg_ParseTupleAndKeywords(nothing, keywords, "$y#LpppppppppLLL", names, &members, &n_members, &pvid,
					 &isolated, &learning, &unknown, &broadcast, &multicast, &sticky, &hairpin,
					 &control, &overflow_drop, &storm_limit, &mac_limit, &mtu);
	Py_XDECREF(nothing);
	if (!ok)
		return false;
	*settings = (struct port_settings){
		.isolated = isolated,
		.learning = learning,
		.unknown_flood = unknown,
		.broadcast_flood = broadcast,
		.multicast_flood = multicast,
		.sticky = sticky,
		.hairpin = hairpin,
		.control = control,
		.overflow_drop = overflow_drop,
	};
	return read_limit("storm_limit", storm_limit, &settings->storm_limit) &&
	       read_limit("mac_limit", mac_limit, &settings->mac_limit) && read_limit("mtu", mtu, &settings->mtu) &&
	       read_vlans(members, n_members, pvid, settings);
}

struct add_port {
	uint32_t switch_id;
	const struct port_settings *settings; /* NULL: the defaults */
	const struct port_ops *ops;
	int fds[PORT_MAX_FDS];
	unsigned n_fds;
	const char *options;
	int ret;
	uint32_t id;
};

static void run_add_port(struct engine *engine, void *arg)
{
	struct add_port *request = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, request->switch_id);
	struct port *port;

	if (!sw) {
		request->ret = -ENOENT;
		for (unsigned i = 0; i < request->n_fds; i++)
			close(request->fds[i]);
		return;
	}
	request->ret = vsw_port_new(sw, request->ops, request->fds, request->n_fds, request->options, &port);
	if (request->ret)
		return;
	request->id = port->id;
	/* Within the same call, so that no frame comes in between. */
	if (request->settings)
		request->ret = vsw_switch_configure_port(port, request->settings);
	if (request->ret)
		vsw_port_free(port);
}

static PyObject *engine_add_port(EngineObject *self, PyObject *args, PyObject *keywords)
{
	struct add_port request = { 0 };
	struct port_settings settings;
	unsigned int switch_id;
	const char *type;
	PyObject *fds;
	Py_ssize_t n, options_size = 0;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "IsO!|y#:add_port", &switch_id, &type, &PyList_Type, &fds,
						       &request.options, &options_size))
		return NULL;
	if (keywords) {
		if (!read_port_settings(keywords, &settings))
			return NULL;
		request.settings = &settings;
	}
	request.switch_id = switch_id;
	request.ops = vsw_port_ops_find(type);
	if (!request.ops)
		return PyErr_Format(PyExc_ValueError, "unknown port type '%s'", type);
	n = PyList_Size(fds);
	if (n < (Py_ssize_t)request.ops->min_fds || n > (Py_ssize_t)request.ops->max_fds)
		return PyErr_Format(PyExc_ValueError, "a %s port takes %u to %u descriptors, not %zd", type,
				    request.ops->min_fds, request.ops->max_fds, n);
	if (options_size != (Py_ssize_t)request.ops->options_size)
		return PyErr_Format(PyExc_ValueError, "a %s port takes %zu bytes of options, not %zd", type,
				    request.ops->options_size, options_size);
	for (Py_ssize_t i = 0; i < n; i++) {
		long fd = PyLong_AsLong(PyList_GetItem(fds, i));

		if (fd < 0 || fd > INT_MAX) {
			if (!PyErr_Occurred())
				PyErr_SetString(PyExc_ValueError, "not a descriptor");
			return NULL;
		}
		request.fds[request.n_fds++] = (int)fd;
	}
	call(self->engine, run_add_port, &request);
	return request.ret ? raise_errno(request.ret) : PyLong_FromUnsignedLong(request.id);
}

struct configure_port {
	uint32_t id;
	struct port_settings settings;
	int ret;
};

static void run_configure_port(struct engine *engine, void *arg)
{
	struct configure_port *request = arg;
	struct port *port = vsw_engine_port(engine, request->id);

	request->ret = port ? vsw_switch_configure_port(port, &request->settings) : -ENOENT;
}

static PyObject *engine_configure_port(EngineObject *self, PyObject *args, PyObject *keywords)
{
	struct configure_port request = { 0 };
	unsigned int id;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "I:configure_port", &id) ||
	    !read_port_settings(keywords, &request.settings))
		return NULL;
	request.id = id;
	call(self->engine, run_configure_port, &request);
	return none_or_raise(request.ret);
}

/* --- reading out --- */

/* Copies of all ports' counters; `copies` grows in the loop. */
struct snapshot {
	struct port *copies;
	size_t n;
	int ret;
};

static void run_stats(struct engine *engine, void *arg)
{
	struct snapshot *snapshot = arg;

	snapshot->copies = calloc(engine->n_ports + 1, sizeof(struct port));
	if (!snapshot->copies) {
		snapshot->ret = -ENOMEM;
		return;
	}
	for (uint32_t i = 0; i < engine->n_ports; i++)
		if (engine->ports[i])
			snapshot->copies[snapshot->n++] = *engine->ports[i];
}

static void run_events(struct engine *engine, void *arg)
{
	struct snapshot *snapshot = arg;
	struct port *port;
	uint64_t count;

	if (read(engine->event_fd, &count, sizeof(count)) < 0)
		return;
	snapshot->copies = calloc(engine->n_ports + 1, sizeof(struct port));
	if (!snapshot->copies) {
		snapshot->ret = -ENOMEM;
		return;
	}
	while ((port = vsw_engine_next_ended(engine)))
		snapshot->copies[snapshot->n++] = *port;
}

/* Put `value`, a new reference or NULL, into `dict`. Return 0 or -1. */
static int put(PyObject *dict, const char *key, PyObject *value)
{
	int ret = value ? PyDict_SetItemString(dict, key, value) : -1;

	Py_XDECREF(value);
	return ret;
}

static PyObject *drops_of(const struct port *port)
{
	PyObject *drops = PyDict_New();

	if (!drops)
		return NULL;
	for (unsigned i = 0; i < NUM_DROPS; i++) {
		if (port->drops[i] && put(drops, vsw_drop_names[i], PyLong_FromUnsignedLongLong(port->drops[i]))) {
			Py_DECREF(drops);
			return NULL;
		}
	}
	return drops;
}

static int put_count(PyObject *dict, const char *way, const char *what, uint64_t value)
{
	char key[32];

	snprintf(key, sizeof(key), "%s_%s", way, what);
	return put(dict, key, PyLong_FromUnsignedLongLong(value));
}

static int put_traffic(PyObject *dict, const char *way, const struct traffic *traffic)
{
	const struct {
		const char *what;
		uint64_t value;
	} counts[] = {
		{ "frames", traffic->frames },
		{ "bytes", traffic->bytes },
		{ "unicast_frames",
		  traffic->frames - traffic->multicast_frames - traffic->broadcast_frames - traffic->unsorted_frames },
		{ "unicast_bytes",
		  traffic->bytes - traffic->multicast_bytes - traffic->broadcast_bytes - traffic->unsorted_bytes },
		{ "multicast_frames", traffic->multicast_frames },
		{ "multicast_bytes", traffic->multicast_bytes },
		{ "broadcast_frames", traffic->broadcast_frames },
		{ "broadcast_bytes", traffic->broadcast_bytes },
	};
	int ret = 0;

	for (size_t i = 0; !ret && i < sizeof(counts) / sizeof(counts[0]); i++)
		ret = put_count(dict, way, counts[i].what, counts[i].value);
	return ret;
}

static PyObject *port_row(const struct port *port)
{
	const struct fdb_holding *addresses = &port->addresses;
	PyObject *row = Py_BuildValue("{sIsssssssIsKsKsN}", "id", port->id, "type", port->ops->name, "state",
				      vsw_port_state_names[port->state], "reason", port->reason, "macs",
				      addresses->dynamic.n + addresses->lasting.n, "unlearnt",
				      (unsigned long long)port->unlearnt, "pauses", (unsigned long long)port->pauses,
				      "drops", drops_of(port));

	if (row && (put_traffic(row, "rx", &port->rx) || put_traffic(row, "tx", &port->tx)))
		Py_CLEAR(row);
	return row;
}

static PyObject *event_row(const struct port *port)
{
	return Py_BuildValue("Iss", port->id, vsw_port_state_names[port->state], port->reason);
}

static PyObject *port_list(struct snapshot *snapshot, PyObject *(*make_row)(const struct port *port))
{
	PyObject *list = snapshot->ret ? raise_errno(snapshot->ret) : PyList_New(0);

	for (size_t i = 0; list && i < snapshot->n; i++) {
		PyObject *row = make_row(&snapshot->copies[i]);

		if (!row || PyList_Append(list, row))
			Py_CLEAR(list);
		Py_XDECREF(row);
	}
	free(snapshot->copies);
	return list;
}

static PyObject *engine_stats(EngineObject *self, PyObject *unused)
{
	struct snapshot snapshot = { 0 };

	(void)unused;
	if (!running_engine(self))
		return NULL;
	call(self->engine, run_stats, &snapshot);
	return port_list(&snapshot, port_row);
}

static PyObject *engine_events(EngineObject *self, PyObject *unused)
{
	struct snapshot snapshot = { 0 };

	(void)unused;
	if (!running_engine(self))
		return NULL;
	call(self->engine, run_events, &snapshot);
	return port_list(&snapshot, event_row);
}

struct fdb_copy {
	uint32_t switch_id;
	struct {
		uint64_t key, age; /* ns */
		uint32_t port;
		uint8_t kind; /* enum fdb_kind */
	} *rows;
	size_t n;
	int ret;
};

static void run_fdb(struct engine *engine, void *arg)
{
	struct fdb_copy *copy = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, copy->switch_id);

	if (!sw) {
		copy->ret = -ENOENT;
		return;
	}
	copy->rows = calloc(sw->fdb.used + 1, sizeof(*copy->rows));
	if (!copy->rows) {
		copy->ret = -ENOMEM;
		return;
	}
	for (uint32_t i = 0; i < sw->fdb.n_slots; i++) {
		const struct fdb_entry *entry = &sw->fdb.slots[i];

		if (!entry->port || !vsw_fdb_is_alive(&sw->fdb, entry, engine->now))
			continue;
		copy->rows[copy->n].key = entry->key;
		copy->rows[copy->n].age = engine->now - entry->seen;
		copy->rows[copy->n].kind = entry->kind;
		copy->rows[copy->n++].port = entry->port->id;
	}
}

static PyObject *engine_fdb(EngineObject *self, PyObject *args)
{
	struct fdb_copy copy = { 0 };
	unsigned int switch_id;
	PyObject *list;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "I:fdb", &switch_id))
		return NULL;
	copy.switch_id = switch_id;
	call(self->engine, run_fdb, &copy);
	if (copy.ret)
		return none_or_raise(copy.ret);
	list = PyList_New(0);
	for (size_t i = 0; list && i < copy.n; i++) {
		uint64_t mac = copy.rows[i].key & FRAME_BROADCAST;
		unsigned int vlan = (unsigned int)(copy.rows[i].key >> 48);
		PyObject *row = Py_BuildValue("KIIds", (unsigned long long)mac, vlan, copy.rows[i].port,
					      (double)copy.rows[i].age / 1e9, vsw_fdb_kind_names[copy.rows[i].kind]);

		if (!row || PyList_Append(list, row))
			Py_CLEAR(list);
		Py_XDECREF(row);
	}
	free(copy.rows);
	return list;
}

/* --- addresses put in and taken out by hand --- */

struct fdb_change {
	uint32_t switch_id, port_id;
	uint64_t key;
	bool any_port;
	int vlan; /* -1: any */
	uint32_t n;
	int ret;
};

/* Return the switch; NULL with the change's `ret` set when there is none, or none that has addresses. */
static struct vsw_switch *switch_with_fdb(struct engine *engine, struct fdb_change *change)
{
	struct vsw_switch *sw = vsw_engine_switch(engine, change->switch_id);

	change->ret = !sw ? -ENOENT : sw->hub ? -EOPNOTSUPP : 0;
	return change->ret ? NULL : sw;
}

/* Return the port of `sw`; NULL with the change's `ret` set when there is none. */
static struct port *port_of(struct vsw_switch *sw, struct fdb_change *change)
{
	struct port *port = vsw_engine_port(sw->engine, change->port_id);

	change->ret = port && port->sw == sw ? 0 : -ENOENT;
	return change->ret ? NULL : port;
}

static void run_fdb_add(struct engine *engine, void *arg)
{
	struct fdb_change *change = arg;
	struct vsw_switch *sw = switch_with_fdb(engine, change);
	struct port *port = sw ? port_of(sw, change) : NULL;

	if (port)
		change->ret = vsw_fdb_pin(&sw->fdb, change->key, port, engine->now);
}

static void run_fdb_remove(struct engine *engine, void *arg)
{
	struct fdb_change *change = arg;
	struct vsw_switch *sw = switch_with_fdb(engine, change);

	if (sw && !vsw_fdb_remove(&sw->fdb, change->key))
		change->ret = -ENOENT;
}

static bool is_to_be_flushed(const struct fdb_entry *entry, const void *arg)
{
	const struct fdb_change *change = arg;

	return entry->kind != FDB_STATIC && (change->any_port || entry->port->id == change->port_id) &&
	       (change->vlan < 0 || (int)(entry->key >> 48) == change->vlan);
}

static void run_fdb_flush(struct engine *engine, void *arg)
{
	struct fdb_change *change = arg;
	struct vsw_switch *sw = switch_with_fdb(engine, change);

	if (sw && (change->any_port || port_of(sw, change)))
		change->n = vsw_fdb_forget(&sw->fdb, is_to_be_flushed, change);
}

/* Check and convert. Return false with ValueError set. */
static bool read_address(unsigned long long mac, unsigned int vlan, struct fdb_change *change)
{
	if (mac > FRAME_BROADCAST || frame_is_group(mac) || vlan > VLAN_LAST) {
		PyErr_SetString(PyExc_ValueError, "not the address of a station, or not a VLAN");
		return false;
	}
	change->key = vsw_fdb_key((uint16_t)vlan, mac);
	return true;
}

static PyObject *engine_fdb_add(EngineObject *self, PyObject *args)
{
	struct fdb_change change = { 0 };
	unsigned int switch_id, vlan, port_id;
	unsigned long long mac;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "IKII:fdb_add", &switch_id, &mac, &vlan, &port_id) ||
	    !read_address(mac, vlan, &change))
		return NULL;
	change.switch_id = switch_id;
	change.port_id = port_id;
	call(self->engine, run_fdb_add, &change);
	return none_or_raise(change.ret);
}

static PyObject *engine_fdb_remove(EngineObject *self, PyObject *args)
{
	struct fdb_change change = { 0 };
	unsigned int switch_id, vlan;
	unsigned long long mac;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "IKI:fdb_remove", &switch_id, &mac, &vlan) ||
	    !read_address(mac, vlan, &change))
		return NULL;
	change.switch_id = switch_id;
	call(self->engine, run_fdb_remove, &change);
	return none_or_raise(change.ret);
}

/* Read a number in 0..limit, or None. Return false with an exception set. */
static bool read_optional(PyObject *object, unsigned long limit, bool *none, uint32_t *number)
{
	unsigned long value;

	*none = object == Py_None;
	if (*none)
		return true;
	value = PyLong_AsUnsignedLong(object);
	if (value > limit && !PyErr_Occurred())
		PyErr_Format(PyExc_ValueError, "%lu is over %lu", value, limit);
	*number = (uint32_t)value;
	return !PyErr_Occurred();
}

static PyObject *engine_fdb_flush(EngineObject *self, PyObject *args)
{
	struct fdb_change change = { 0 };
	unsigned int switch_id;
	PyObject *port, *vlan;
	uint32_t vlan_id = 0;
	bool any_vlan;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "IOO:fdb_flush", &switch_id, &port, &vlan) ||
	    !read_optional(port, UINT32_MAX, &change.any_port, &change.port_id) ||
	    !read_optional(vlan, VLAN_LAST, &any_vlan, &vlan_id))
		return NULL;
	change.switch_id = switch_id;
	change.vlan = any_vlan ? -1 : (int)vlan_id;
	call(self->engine, run_fdb_flush, &change);
	return change.ret ? none_or_raise(change.ret) : PyLong_FromUnsignedLong(change.n);
}

/* --- the module --- */

#define METHOD(name, flags) { #name, (PyCFunction)(void (*)(void))engine_##name, flags, NULL }

static PyMethodDef engine_methods[] = {
	METHOD(fileno, METH_NOARGS),
	METHOD(close, METH_NOARGS),
	METHOD(add_switch, METH_VARARGS),
	METHOD(configure_switch, METH_VARARGS | METH_KEYWORDS),
	METHOD(remove_switch, METH_VARARGS),
	METHOD(add_port, METH_VARARGS | METH_KEYWORDS),
	METHOD(configure_port, METH_VARARGS | METH_KEYWORDS),
	METHOD(remove_port, METH_VARARGS),
	METHOD(end_port, METH_VARARGS),
	METHOD(stats, METH_NOARGS),
	METHOD(events, METH_NOARGS),
	METHOD(fdb, METH_VARARGS),
	METHOD(fdb_add, METH_VARARGS),
	METHOD(fdb_remove, METH_VARARGS),
	METHOD(fdb_flush, METH_VARARGS),
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot engine_slots[] = {
	{ Py_tp_doc, (void *)"One frame-moving thread and its switches and ports." },
	{ Py_tp_new, (void *)engine_create },
	{ Py_tp_dealloc, (void *)engine_dealloc },
	{ Py_tp_methods, engine_methods },
	{ 0, NULL },
};

static PyType_Spec engine_spec = {
	.name = "vswitch.fabric.core.Engine",
	.basicsize = sizeof(EngineObject),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = engine_slots,
};

static int add_names(PyObject *module, const char *attribute, const char *const *names, Py_ssize_t n)
{
	PyObject *tuple = PyTuple_New(n);
	int ret;

	for (Py_ssize_t i = 0; tuple && i < n; i++) {
		PyObject *name = PyUnicode_FromString(names[i]);

		if (!name || PyTuple_SetItem(tuple, i, name))
			Py_CLEAR(tuple);
	}
	ret = tuple ? PyModule_AddObjectRef(module, attribute, tuple) : -1;
	Py_XDECREF(tuple);
	return ret;
}

static int core_exec(PyObject *module)
{
	const char *types[16];
	Py_ssize_t n_types = 0;
	PyObject *type = PyType_FromModuleAndSpec(module, &engine_spec, NULL);
	int ret = type ? PyModule_AddObjectRef(module, "Engine", type) : -1;

	Py_XDECREF(type);
	while (vsw_port_types[n_types] && n_types < 16) {
		types[n_types] = vsw_port_types[n_types]->name;
		n_types++;
	}
	if (!ret)
		ret = add_names(module, "PORT_TYPES", types, n_types);
	if (!ret)
		ret = add_names(module, "DROP_REASONS", vsw_drop_names, NUM_DROPS);
	return ret;
}

static PyModuleDef_Slot core_slots[] = {
	{ Py_mod_exec, (void *)core_exec },
	{ 0, NULL },
};

static struct PyModuleDef core_module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "core",
	.m_doc = "The C engine that moves frames.",
	.m_slots = core_slots,
};

PyMODINIT_FUNC PyInit_core(void)
{
	return PyModuleDef_Init(&core_module);
}
