package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/repo"
)

// bup's protocol
//
// A request is a line, for some followed by more; requests are answered in order. A reply
// ends in "\nok\n", or in "\nerror TEXT\n" where a client reads that: after join and
// rev-list. Every other failure ends the connection, which is all that bup's server can
// do either.
//
//	request                     and then                     reply
//	help                                                     "Commands:", names after four blanks
//	init-dir PATH, set-dir PATH                              nothing; PATH may be missing
//	list-indexes                                             NAME.idx for each, " load" behind it in a dumb repository
//	send-index NAME                                          u32 n, n bytes
//	read-ref REF                                             an id, or nothing if there is none
//	refs HEADS TAGS             patterns, empty line         "ID REF" for each, empty line
//	config-get                  bvec key, bvec type          a value
//	rev-list                    empty line, format or empty  as git rev-list has it, empty line
//	                            line, revisions, empty line
//	cat REV, join REV                                        (u32 n, n bytes) for each blob, u32 0
//	cat-batch                   revisions, empty line        "missing", or "ID TYPE SIZE" and the object, for each
//	resolve FLAGS               path                         see resolve
//	receive-objects-v2          records                      see receive
//	update-ref REF              new id, old id or nothing    nothing
//	quit                                                     the end
//
// Lines end in LF; u32 is big-endian; bvec is a length in groups of seven bits, the
// lowest first, and so many bytes. A session of bup 0.33, up to the first object:
//
//	help\n                          Commands:\n    cat\n … \nok\n
//	set-dir /srv/build\n            \nok\n
//	list-indexes\n                  \nok\n
//	read-ref refs/heads/etc\n       \nok\n
//	receive-objects-v2\n            (nothing yet)
//	00001637 2aba…3ecf 5568b26d …   (nothing yet)

// The limits of requests. What a line may hold is maxLine.
const (
	maxText  = 8 << 20 // bytes of the lines of one request: 200,000 ids
	maxField = 4095    // bytes of a path or a key
)

// bupState is what bup's protocol remembers of a connection.
type bupState struct {
	up      *upload         // suspended or filled; nil: none
	told    map[string]bool // idx files of the repository that the client was told of
	done    []string        // idx files of up, still to be told
	objects int             // in the open pack
	bytes   int64
	record  []byte

	vfs repo.VFS // of the open repository
}

// bupChoosing returns the commands that every client may send. An old client insists on
// those that list and send idx files, even for what only reads; what may not be read is
// in none of them.
func bupChoosing() map[string]handler {
	return map[string]handler{
		"init-dir":     initDir,
		"set-dir":      setDir,
		"list-indexes": listIndexes,
		"send-index":   sendIndex,
		"read-ref":     readRef,
		"refs":         listRefs,
		"config-get":   configGet,
	}
}

// bupReading returns the commands that read.
func bupReading() map[string]handler {
	return map[string]handler{
		"cat":       join,
		"join":      join,
		"cat-batch": catBatch,
		"rev-list":  revList,
		"resolve":   resolve,
	}
}

// bupWriting returns the commands that write.
func bupWriting() map[string]handler {
	return map[string]handler{
		"receive-objects-v2": receive,
		"update-ref":         updateRef,
	}
}

// bupLeft ends what a client of bup's protocol has left behind: a suspended pack is
// completed.
func (s *session) bupLeft(ctx context.Context) error {
	u := s.bup.up
	if u == nil {
		return nil
	}
	s.bup.up = nil
	_, err := u.commit(ctx)
	return errors.Join(err, u.close())
}

func initDir(ctx context.Context, s *session, path string) error {
	_, err := s.open(ctx, path, &repo.InitOptions{Bup: true})
	return err
}

func setDir(ctx context.Context, s *session, path string) error {
	_, err := s.open(ctx, path, nil)
	return err
}

// listIndexes tells the names of the idx files whose objects the client need not send.
func listIndexes(ctx context.Context, s *session, _ string) error {
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	names, err := p.Indexes(ctx)
	if err != nil {
		return err
	}
	load := ""
	if p.Dumb() {
		load = " load"
	}
	for _, name := range names {
		_, _ = fmt.Fprintf(s.out, "%s%s\n", name, load)
	}
	return nil
}

func sendIndex(ctx context.Context, s *session, name string) error {
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	b, err := p.OpenIndex(ctx, name)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Size() >= 1<<32 {
		return fmt.Errorf("%s has %d bytes, more than fit in the reply", name, b.Size())
	}
	s.putUint32(uint32(b.Size()))
	n, err := io.Copy(s.out, io.NewSectionReader(b, 0, b.Size()))
	if err == nil && n != b.Size() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// configGet answers with a value of the repository's config: 0 unset, 1 true, 2 false,
// 3 and a number, 4 and a text, 5 not to be asked for.
func configGet(ctx context.Context, s *session, _ string) error {
	key, err := s.readBvec()
	if err != nil {
		return err
	}
	kind, err := s.readBvec()
	if err != nil {
		return err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	s.out.Write(appendConfig(nil, p.Config(), string(key), string(kind)))
	return nil
}

// appendConfig appends the answer to config-get.
func appendConfig(dst []byte, c repo.Config, key, kind string) []byte {
	number := func(n int64, set bool) []byte {
		switch {
		case !set:
			return append(dst, 0)
		case kind == "int":
			return appendVint(append(dst, 3), n)
		}
		return appendBvec(append(dst, 4), strconv.FormatInt(n, 10))
	}
	text := func(v string) []byte {
		if v == "" {
			return append(dst, 0)
		}
		return appendBvec(append(dst, 4), v)
	}
	switch key {
	case "bup.repo.id":
		return text(c.ID)
	case "bup.split.files":
		// What clients of bup cannot split by they take for a fault: they get no
		// answer, and split as they always did.
		bits, ok := strings.CutPrefix(c.Chunker, "rollsum:")
		if !ok || bits == "13" {
			return append(dst, 0)
		}
		return text("legacy:" + bits)
	case "bup.split.trees":
		switch {
		case !c.SplitTrees:
			return append(dst, 0)
		case kind == "bool":
			return append(dst, 1)
		}
		return text("true")
	case "pack.packsizelimit":
		return number(c.PackSizeLimit, c.PackSizeLimit > 0)
	case "pack.compression":
		return number(int64(c.Compression), c.Compression >= 0)
	case "core.compression": // the other one wins, and it stands for both
		return append(dst, 0)
	}
	return append(dst, 5)
}
