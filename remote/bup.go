package remote

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// bupRepo is the driver for a host that has bup and no kedge. It speaks bup's protocol,
// which package server describes: one request at a time, each answered before the next,
// but for the objects of receive-objects-v2, which go out while lines may come in.
//
// # What is trusted
//
// A kedge server says of every object whether it is there with all below it (I9). A bup
// server can say no such thing: it lists its idx files, and what is in one of them counts
// as present, with all below it. So this driver trusts that nobody took packs away from
// the server but by bup gc, after which the list is another one; that every idx has its
// pack; and that the pack holds what it should. The objects that it sends itself are
// complete: children go before parents, and a tree or a commit whose children are neither
// listed nor sent is refused here. What is read is hashed and compared.
//
// The server syncs packs and not refs; it makes no receipts; a ref that moved between
// our look and the move ends the connection.
//
// All listed idx files are fetched before the first object is looked up, and kept in the
// cache; those that are no longer listed are not believed, and removed in time.
type bupRepo struct {
	g     *greeting
	w     *bufio.Writer
	info  wire.Info
	cache *cache
	tmp   string // what to remove at the end, if there is no cache

	mu     sync.Mutex // who has the line
	err    error      // why there is none any more
	listed bool       // view is of this connection
	named  []pack.ID  // packs whose idx files the server listed last
	mean   int        // bytes of an object, of late

	view   atomic.Pointer[view]
	looked atomic.Int64

	// The pack that the server has open, and what is in it.
	ear     *bupEar // nil: it is suspended, or there is none
	open    bool
	ids     map[pack.ID]struct{} // guarded by idsMu for reading, by both for writing
	idsMu   sync.RWMutex
	packing figures
}

// newBup opens a repository on a server that speaks bup's protocol only. Info holds what
// could be found out.
func newBup(ctx context.Context, g *greeting, path string, o Options) (driver, wire.Info, error) {
	b := &bupRepo{g: g, w: bufio.NewWriterSize(g.w, throttleStep), ids: make(map[pack.ID]struct{})}
	b.view.Store(new(view))
	b.info = wire.Info{Path: path, Rights: b.rights()}
	err := b.do(ctx, func() error { return b.choose(path, o.Create) })
	if err != nil {
		return nil, wire.Info{}, err
	}
	if err := b.makeCache(o); err != nil {
		return nil, wire.Info{}, err
	}
	return b, b.info, nil
}

// rights tells what one may try: a bup server has no roles, but it may be one of kedge's
// that lists what a key may do.
func (b *bupRepo) rights() (r wire.Rights) {
	if b.g.offers("cat-batch") {
		r |= wire.MayRead
	}
	if b.g.offers("receive-objects-v2") && b.g.offers("update-ref") {
		r |= wire.MayAppend | wire.MayRewind
	}
	return r
}

// choose chooses the repository and asks for its config.
func (b *bupRepo) choose(path string, create *CreateOptions) error {
	if strings.ContainsAny(path, "\r\n") {
		return fmt.Errorf("path %q: bup's protocol has no way to say it", path)
	}
	if create != nil && create.Chunker != "" && !strings.HasPrefix(create.Chunker, "rollsum:") {
		return &repo.ConfigError{Reason: "bup on " + b.g.name + " makes repositories whose files are split by rollsum:13 and by nothing else"}
	}
	var err error
	switch {
	case create != nil:
		err = b.ask("init-dir " + path)
	case path != "":
		err = b.ask("set-dir " + path)
	default: // the first command chooses
		_, err = b.askLine("read-ref refs/heads/none")
	}
	if lost := new(LostError); errors.As(err, &lost) && saysNone(lost.Said) {
		return &repo.NotFoundError{What: "repository", Name: path}
	}
	if err != nil {
		return err
	}
	return b.readConfig()
}

// saysNone reports whether bup's last words are that there is no repository.
func saysNone(said string) bool {
	return strings.Contains(said, "does not exist") || strings.Contains(said, "not a repository")
}

// makeCache makes the cache, in a directory of its own that goes with the connection
// if there is no other place.
func (b *bupRepo) makeCache(o Options) error {
	root := o.Cache
	if root == "" {
		b.tmp = filepath.Join(os.TempDir(), fsx.TempName())
		if err := o.FS.MkdirAll(b.tmp, 0o700); err != nil {
			return err
		}
		root = b.tmp
	}
	b.cache = newCache(o.FS, root, "bup\x00"+b.g.name+"\x00"+b.info.Path, b.info)
	return nil
}

// readConfig asks for what the server says of the repository, if it can be asked.
func (b *bupRepo) readConfig() error {
	c := repo.Config{Chunker: "rollsum:13", Compression: -1}
	if b.g.offers("config-get") {
		var files string
		var trees bool
		for _, q := range []struct {
			key, kind string
			set       func(v bupValue)
		}{
			{"bup.repo.id", "", func(v bupValue) { c.ID = v.text }},
			{"bup.split.files", "", func(v bupValue) { files = v.text }},
			{"bup.split.trees", "bool", func(v bupValue) { trees = v.yes }},
			{"pack.packsizelimit", "int", func(v bupValue) { c.PackSizeLimit = max(0, v.number) }},
			{"core.compression", "int", func(v bupValue) { c.Compression = v.level(c.Compression) }},
			{"pack.compression", "int", func(v bupValue) { c.Compression = v.level(c.Compression) }},
		} {
			v, err := b.configGet(q.key, q.kind)
			if err != nil {
				return err
			}
			q.set(v)
		}
		if files != "" {
			bits, ok := strings.CutPrefix(files, "legacy:")
			if n, err := strconv.Atoi(bits); !ok || err != nil || n < 13 || n > 21 {
				return &repo.ConfigError{Reason: fmt.Sprintf("the repository's bup.split.files is %.50q, which is not known here", files)}
			}
			c.Chunker = "rollsum:" + bits
		}
		c.SplitTrees = trees
	}
	b.info.Config = c
	return nil
}

// Close ends the connection. What was sent and not committed is garbage.
func (b *bupRepo) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, repo.ErrClosed) {
		return nil
	}
	if b.err == nil {
		if err := b.say("quit\n"); err == nil {
			_ = b.w.Flush()
		}
	}
	b.err = repo.ErrClosed
	err := b.g.conn.Close()
	if b.ear != nil {
		<-b.ear.done
	}
	b.cache.close()
	if b.tmp != "" {
		_ = b.cache.fs.RemoveAll(b.tmp)
	}
	return err
}

// do has the line for fn. If ctx ends meanwhile, or the line is lost, nobody knows where
// in the stream one is, so there is no line any more.
func (b *bupRepo) do(ctx context.Context, fn func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if b.err != nil {
		return b.err
	}
	stop := context.AfterFunc(ctx, func() { _ = b.g.conn.Close() })
	err := fn()
	if !stop() {
		b.err = b.g.lost(context.Cause(ctx))
		return context.Cause(ctx)
	}
	if errors.As(err, new(*LostError)) {
		b.err = err
		_ = b.g.conn.Close()
	}
	return err
}

// say sends a request, after what is being received was suspended.
func (b *bupRepo) say(request string) error {
	if err := b.suspend(); err != nil {
		return err
	}
	_, err := b.w.WriteString(request)
	return b.sent(err)
}

// sent makes a failed write what it is.
func (b *bupRepo) sent(err error) error {
	if err == nil {
		return nil
	}
	return b.g.lost(err)
}

// begin sends a request and is ready for the answer.
func (b *bupRepo) begin(request string) error {
	if err := b.say(request); err != nil {
		return err
	}
	return b.sent(b.w.Flush())
}

// ask sends a line whose answer is nothing but "ok".
func (b *bupRepo) ask(line string) error {
	if err := b.begin(line + "\n"); err != nil {
		return err
	}
	return b.end()
}

// askLine sends a line that is answered by a line or by none.
func (b *bupRepo) askLine(line string) (string, error) {
	if err := b.begin(line + "\n"); err != nil {
		return "", err
	}
	got, err := b.line()
	if err != nil {
		return "", err
	}
	return got, b.end()
}

// line reads a line.
func (b *bupRepo) line() (string, error) {
	l, err := b.g.line()
	if err != nil {
		return "", b.g.lost(err)
	}
	return l, nil
}

// end reads the end of an answer: "ok", or "error" and why, with empty lines before.
func (b *bupRepo) end() error {
	for {
		l, err := b.line()
		switch {
		case err != nil:
			return err
		case l == "":
		case l == "ok":
			return nil
		case strings.HasPrefix(l, "error "):
			return &wire.ServerError{Reason: strings.TrimPrefix(l, "error ")}
		default:
			return b.g.lost(fmt.Errorf("%w: %.100q where an answer should end", wire.ErrProtocol, l))
		}
	}
}

// read reads n bytes. It takes memory for those that came.
func (b *bupRepo) read(n int64) ([]byte, error) {
	var buf []byte
	for int64(len(buf)) < n {
		at := len(buf)
		buf = slices.Grow(buf, int(min(n-int64(at), 1<<20)))
		buf = buf[:min(int64(cap(buf)), n)]
		if _, err := io.ReadFull(b.g.r, buf[at:]); err != nil {
			return nil, b.g.lost(err)
		}
	}
	return buf, nil
}

// readUint32 reads a number of four bytes.
func (b *bupRepo) readUint32() (uint32, error) {
	buf, err := b.read(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(buf), nil
}

// bupValue is an answer to config-get.
type bupValue struct {
	set, yes bool
	number   int64
	text     string
}

// level returns the number as a level of compression, or what was.
func (v bupValue) level(was int) int {
	if !v.set || v.number < -1 || v.number > 9 {
		return was
	}
	return int(v.number)
}

// configGet asks for one value of the config.
func (b *bupRepo) configGet(key, kind string) (v bupValue, err error) {
	request := fmt.Sprintf("config-get\n%c%s%c%s", len(key), key, len(kind), kind)
	if err := b.begin(request); err != nil {
		return v, err
	}
	how, err := b.g.r.ReadByte()
	switch how {
	case 0, 2, 5: // unset, no, not for us
	case 1:
		v.yes = true
	case 3:
		v.number, err = b.readInt()
	case 4:
		var n int64
		if n, err = b.readVint(0, 0); err == nil && n > 4096 {
			err = fmt.Errorf("%w: %s of %d bytes", wire.ErrProtocol, key, n)
		}
		var text []byte
		if err == nil {
			text, err = b.read(n)
		}
		v.text = string(text)
	default:
		err = fmt.Errorf("%w: %s is of an unknown kind", wire.ErrProtocol, key)
	}
	if err != nil {
		if !errors.As(err, new(*LostError)) {
			err = b.g.lost(err)
		}
		return v, err
	}
	v.set = how == 3 || how == 4
	return v, b.end()
}

// readInt reads a number with a sign: bit 6 of the first byte, which has six others.
func (b *bupRepo) readInt() (int64, error) {
	first, err := b.g.r.ReadByte()
	if err != nil {
		return 0, err
	}
	n := int64(first & 0x3f)
	if first&0x80 != 0 {
		if n, err = b.readVint(6, n); err != nil {
			return 0, err
		}
	}
	if first&0x40 != 0 {
		n = -n
	}
	return n, nil
}

// readVint reads groups of seven bits, the lowest first, above the bits of low that there
// are before them.
func (b *bupRepo) readVint(shift uint, low int64) (int64, error) {
	for {
		c, err := b.g.r.ReadByte()
		if err != nil {
			return 0, err
		}
		if shift > 55 {
			return 0, fmt.Errorf("%w: a number that is too large", wire.ErrProtocol)
		}
		low |= int64(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			return low, nil
		}
	}
}
