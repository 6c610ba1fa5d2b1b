// Package repo is the repository: a bare git repository, seen at two heights.
// Repo is objects and refs; Store is named files that are written once.
//
// # Files
//
// All that git knows is as git has it: objects in pack files of version 2 with
// an idx of version 2 each, a multi-pack-index where packs are many, refs as
// loose files or in packed-refs, a config. Kedge adds a directory:
//
//	kedge/closed      packs of which every object has all below it (closed.go)
//	kedge/receipts    one line for every move of a ref (type Receipt)
//	kedge/reflock     flock: who changes refs or the config; see refLock
//	kedge/maint       flock: who begins a session shares it, who deletes has it alone
//	kedge/upkeep      flock: who prunes, undoes or collects garbage
//	kedge/pruned      prunes that can be undone (type Pruned)
//	kedge/pins        saves that no prune removes (type Pin)
//	kedge/live        when garbage was collected last, and how many bytes were live
//	kedge/trash/      packs that were taken away and are not deleted yet (trash.go)
//	kedge/sessions/S  one file for each session, flocked as long as it lives;
//	                  the names of the packs that it relies on, one a line
//	kedge/tmp/S/      what session S writes, before it has a name
//	kedge/stage       the next content of a ref, packed-refs or the config
//
// Sessions, tmp and stage mean nothing when no process is alive. closed is
// derived and can be lost. receipts cannot: it is the only witness of when a
// save came in, and of what a ref was before.
//
// # Order of a save
//
//	write PACK and IDX in kedge/tmp/S, fsync both, link both to objects/pack,
//	fsync objects/pack                      for the pack of data, then for that of trees
//	add the packs to kedge/closed, fsync
//	stage the value of the ref, fsync; add a receipt, fsync
//	link kedge/reflock to NAME.lock, rename kedge/stage to NAME, unlink NAME.lock
//	fsync the directory of NAME
//
// The rename is the one moment at which a save begins to exist. What stands
// before it is garbage if the power fails, and harmless; what the caller is
// told comes after the last fsync (I1). Children are published before parents,
// so no ref ever reaches an object that is not there (I2).
//
// # What is present
//
// Missing calls an object present only if all below it is (I9). For objects in
// closed packs one look-up says so. Packs that git or bup wrote are not closed
// at first: their objects are read, hashed and walked down from, and packs that
// pass as a whole are added to the list. Loose objects can be read but never
// count, as git deletes them when it likes.
package repo

import (
	"context"
	"io"

	"github.com/kedgebackup/kedge/pack"
)

// Repo is a repository as commands see it. *Packs and the remote client
// implement it. Its methods may be called by several goroutines at once.
type Repo interface {
	// Get calls fn once for each id, in any order and from several goroutines at
	// once. Body is valid until fn returns; its hash was compared with the id.
	// An error of fn stops it. An object that is not there: *MissingError; one
	// whose bytes are wrong: *pack.CorruptError.
	Get(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error

	// Missing appends to dst those ids that are not present with everything
	// below them (invariant I9), in their order.
	Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error)

	// Refs returns the refs whose full names begin with prefix, sorted by name.
	Refs(ctx context.Context, prefix string) ([]Ref, error)

	// SetRef moves one ref and returns where it stands then. It is durable when
	// SetRef returns. See Move for what happens if the ref is not where the
	// caller thought.
	SetRef(ctx context.Context, m Move) (pack.ID, error)

	// Begin starts a session that adds objects.
	Begin(ctx context.Context) (Session, error)

	// Close gives back what the repository holds open.
	Close() error
}

// Ref is a name for an object.
type Ref struct {
	Name string // full, "refs/heads/etc"
	ID   pack.ID
}

// Move is the wish to move a ref.
type Move struct {
	Ref      string  // full name
	Old, New pack.ID // zero Old: the ref must not exist; zero New: delete it
	// Reparent says that New is a save: if the ref has moved on from Old, the
	// commit is made anew on top of where the ref is now, and if the ref already
	// reaches it, nothing is to be done. Without, a ref that is not at Old is
	// a *RefChangedError.
	Reparent bool
	Stats    MoveStats // for the receipt
}

// MoveStats are figures of the session that led to a move of a ref.
type MoveStats struct {
	Objects, Bytes int64   // received
	Seconds        float64 // from Begin to the move
	ClientTime     int64   // seconds since the epoch, as the client says
	Principal      string  // who moved it
}

// Class says for whom an object is: Data for the contents of files, Trees for
// all that browsing needs (trees, .bupm, commits). The two go to packs of their own.
type Class uint8

// The two classes.
const (
	Data Class = iota
	Trees
)

// Session adds objects to a repository. Missing may be called by several
// goroutines at once and together with the other methods; Add, Commit and
// Abort by one at a time.
type Session interface {
	// Missing is Repo.Missing, and counts as present what this session added.
	Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error)
	// Add appends objects, children before parents. The entries may be reused
	// afterwards. What is already there or was already added is passed over.
	Add(ctx context.Context, class Class, entries []pack.Entry) error
	// Commit makes everything added durable and visible. The session goes on.
	Commit(ctx context.Context) error
	// Stats returns what was stored so far: objects and bytes of packs.
	Stats() (objects, bytes int64)
	// Close ends the session and throws away what was not committed.
	Close() error
}

// Store is a repository as a set of files, each written once. Names are those
// of a git directory, with slashes: "objects/pack/pack-….idx".
type Store interface {
	// Open opens a file for reading; fs.ErrNotExist if there is none.
	Open(ctx context.Context, name string) (Blob, error)
	// Create begins a file that has no name yet.
	Create(ctx context.Context) (Pending, error)
	// List calls fn for every file whose name begins with dir + "/".
	List(ctx context.Context, dir string, fn func(name string, size int64) error) error
	// Remove removes a file; it is no error if there is none.
	Remove(ctx context.Context, name string) error
}

// Blob is an open file of a Store.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Pending is a file being written.
type Pending interface {
	pack.Output
	// Commit makes the bytes durable, gives the file its name and makes the name
	// durable. It fails with *ExistsError if there is a file of that name with
	// other bytes; the same bytes are no error. After any failed write or sync
	// it fails for good.
	Commit(name string) error
	// Abort throws the file away; after Commit it does nothing.
	Abort()
}
