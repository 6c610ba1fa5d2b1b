package meta

import (
	"os/user"
	"strconv"
)

// Names resolves numeric owners to names and back, with a cache, from the
// system's user database. It is used by one goroutine at a time. The zero value
// is ready for use.
//
// The database is /etc/passwd and /etc/group as package os/user reads them; a
// name service behind the C library is not asked. What is not found is "", and
// is not looked for again.
type Names struct {
	users, groups ids
}

// maxCached bounds what a tree with millions of owners can make a cache hold;
// a full one is emptied.
const maxCached = 1 << 16

// ids is the cache of one half of the database.
type ids struct {
	names  map[uint32]string
	ids    map[string]int64 // -1: there is none
	last   uint32           // the id asked for last,
	known  bool             // if there was one,
	answer string           // and its name
}

// User returns the name of a user id, "" if there is none.
func (n *Names) User(uid uint32) string {
	return n.users.name(uid, func(id string) string {
		u, err := user.LookupId(id)
		if err != nil {
			return ""
		}
		return u.Username
	})
}

// Group returns the name of a group id, "" if there is none.
func (n *Names) Group(gid uint32) string {
	return n.groups.name(gid, func(id string) string {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return ""
		}
		return g.Name
	})
}

// UID returns the id of a user; ok is false if there is no such user.
func (n *Names) UID(name string) (uid uint32, ok bool) {
	return n.users.id(name, func(name string) string {
		u, err := user.Lookup(name)
		if err != nil {
			return ""
		}
		return u.Uid
	})
}

// GID returns the id of a group; ok is false if there is no such group.
func (n *Names) GID(name string) (gid uint32, ok bool) {
	return n.groups.id(name, func(name string) string {
		g, err := user.LookupGroup(name)
		if err != nil {
			return ""
		}
		return g.Gid
	})
}

func (c *ids) name(id uint32, lookup func(string) string) string {
	if c.known && c.last == id {
		return c.answer
	}
	name, ok := c.names[id]
	if !ok {
		if c.names == nil || len(c.names) >= maxCached {
			c.names = make(map[uint32]string)
		}
		name = lookup(strconv.FormatUint(uint64(id), 10))
		c.names[id] = name
	}
	c.last, c.known, c.answer = id, true, name
	return name
}

// id looks a name up. An answer that is no number in the range of ids counts as
// none: it must not become 0.
func (c *ids) id(name string, lookup func(string) string) (uint32, bool) {
	if name == "" {
		return 0, false
	}
	id, ok := c.ids[name]
	if !ok {
		if c.ids == nil || len(c.ids) >= maxCached {
			c.ids = make(map[string]int64)
		}
		id = -1
		if v, err := strconv.ParseUint(lookup(name), 10, 32); err == nil && v != 1<<32-1 {
			id = int64(v)
		}
		c.ids[name] = id
	}
	return uint32(id), id >= 0
}
