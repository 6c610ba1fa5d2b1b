package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// frames is the driver of kedge's own protocol.
type frames struct {
	*line
	info    wire.Info
	cache   *cache // nil: none
	tune    tuning
	ahead   *ahead
	readers sync.Pool    // of *reader
	mean    atomic.Int64 // bytes of an object in the replies to Get so far, 0 before the first
	workers int          // that decode what one Get fetched
}

// newFrames opens a repository on a server that speaks frames.
func newFrames(ctx context.Context, g *greeting, path string, o Options) (driver, wire.Info, error) {
	if err := g.frames(); err != nil {
		return nil, wire.Info{}, err
	}
	f := &frames{line: newLine(g, usualLimits), tune: usualTuning, workers: runtime.GOMAXPROCS(0)}
	f.readers.New = func() any { return newReader() }
	f.ahead = newAhead(f)
	if err := f.openRepo(ctx, path, o); err != nil {
		f.close()
		return nil, wire.Info{}, err
	}
	if o.Cache != "" {
		f.cache = newCache(o.FS, o.Cache, f.name+"\x00"+f.info.Path, f.info)
	}
	return f, f.info, nil
}

func (f *frames) openRepo(ctx context.Context, path string, o Options) error {
	m := wire.OpenRequest{Path: path}
	if o.Create != nil {
		m.Create, m.Chunker, m.Expect = true, o.Create.Chunker, o.Create.Expect
		if o.Create.Bup {
			m.Chunker, m.Expect = wire.BupChunker, 0
		}
	}
	body, err := f.ask(ctx, wire.Open, m.Append(nil))
	if err == nil {
		f.info, err = wire.ParseInfo(body)
	}
	return err
}

// Close ends the connection.
func (f *frames) Close() error {
	err := f.close()
	if f.cache != nil {
		f.cache.close()
	}
	return err
}

// askText is ask with a request that is a text.
func (f *frames) askText(ctx context.Context, kind wire.Kind, text string) ([]byte, error) {
	return f.ask(ctx, kind, []byte(text))
}

// Refs returns the refs whose full names begin with prefix.
func (f *frames) Refs(ctx context.Context, prefix string) ([]repo.Ref, error) {
	body, err := f.askText(ctx, wire.Refs, prefix)
	if err != nil {
		return nil, err
	}
	return wire.ParseRefs(body)
}

// SetRef moves one ref; see repo.Repo.
func (f *frames) SetRef(ctx context.Context, m repo.Move) (pack.ID, error) {
	r := wire.MoveRequest{Move: m}
	body, err := f.ask(ctx, wire.SetRef, r.Append(nil))
	if err != nil {
		return pack.ID{}, err
	}
	ids, err := wire.ParseIDs(nil, body)
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("%w: a ref is at %d places", wire.ErrProtocol, len(ids))
	}
	if err != nil {
		return pack.ID{}, err
	}
	return ids[0], nil
}

// Missing appends to dst those ids that are not present with all below them.
func (f *frames) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	return f.missing(ctx, 0, dst, ids)
}

// missingAtOnce is how many ids one request holds.
const missingAtOnce = 50_000

// missing asks the server. dst may be the memory before ids.
func (f *frames) missing(ctx context.Context, session uint32, dst, ids []pack.ID) ([]pack.ID, error) {
	if ctx.Err() != nil {
		return dst, context.Cause(ctx)
	}
	var replies []future
	for at := 0; at < len(ids); at += missingAtOnce {
		m := wire.MissingRequest{Session: session, IDs: ids[at:min(len(ids), at+missingAtOnce)]}
		reply, err := f.start(ctx, wire.Missing, m.Append(nil))
		if err != nil {
			return dst, err
		}
		replies = append(replies, reply)
	}
	start := len(dst)
	for i, reply := range replies {
		asked := ids[i*missingAtOnce : min(len(ids), (i+1)*missingAtOnce)]
		body, err := reply.wait(ctx)
		if err != nil {
			return dst[:start], err
		}
		bits, err := wire.ParseMissingReply(body, len(asked))
		if err != nil {
			return dst[:start], err
		}
		for k, id := range asked {
			if bits.Has(k) {
				dst = append(dst, id)
			}
		}
	}
	return dst, nil
}

// AllowNames has the server tell git which names it is not to complain about.
func (f *frames) AllowNames(ctx context.Context, names []string) error {
	for len(names) > 0 {
		n, size := 0, 0
		for n < len(names) && size < wire.MaxFrame/2 {
			size += len(names[n]) + 5
			n++
		}
		if _, err := f.ask(ctx, wire.AllowNames, wire.Names(names[:n]).Append(nil)); err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}

// errStray is what a server that sends other commits than were asked for ends in.
var errStray = fmt.Errorf("%w: a commit that was not asked for", wire.ErrProtocol)

// Commits calls fn for a commit and all that it reaches; see repo.CommitWalker. That
// the server sends these and no others is seen by their ids: each has to be the tip or
// a parent of one before.
func (f *frames) Commits(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error {
	due := map[pack.ID]bool{tip: true} // named, not come yet
	seen := map[pack.ID]bool{}
	hasher := pack.NewHasher()
	for len(due) > 0 {
		r := wire.CommitsRequest{Tip: tip, Skip: len(seen)}
		reply, err := f.ask(ctx, wire.Commits, r.Append(nil))
		if err != nil {
			return err
		}
		before := len(seen)
		err = wire.ParseBodies(reply, func(body []byte) error {
			id, err := hasher.Sum(pack.Commit, body)
			if err != nil {
				return err
			}
			if !due[id] {
				return errStray
			}
			delete(due, id)
			seen[id] = true
			c, err := repo.ParseCommit(body)
			if err != nil {
				return err
			}
			for _, parent := range c.Parents {
				if !seen[parent] {
					due[parent] = true
				}
			}
			return fn(id, body)
		})
		if err != nil {
			return err
		}
		if len(seen) == before {
			for id := range due {
				return &repo.MissingError{ID: id}
			}
		}
	}
	return nil
}

// notesKept bounds the findings that wait for being reported.
const notesKept = 64 << 20

// Check has the server check the repository. Findings are reported as they come.
func (f *frames) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	var res repo.CheckResult
	var mu sync.Mutex
	var notes [][]byte
	var size int
	news := make(chan struct{}, 1)
	end := make(future, 1)
	c := &call{kind: wire.Check, done: func(b []byte, err error) { end <- answer{b, err} }}
	c.note = func(b []byte) {
		mu.Lock()
		if size += len(b); size <= notesKept {
			notes = append(notes, b)
		}
		mu.Unlock()
		select {
		case news <- struct{}{}:
		default:
		}
	}
	tell := func() error {
		mu.Lock()
		list, n := notes, size
		notes, size = nil, 0
		mu.Unlock()
		for _, b := range list {
			var finding repo.Finding
			if err := json.Unmarshal(b, &finding); err != nil {
				return fmt.Errorf("%w: a finding: %w", wire.ErrProtocol, err)
			}
			report(finding)
		}
		if n > notesKept {
			return errors.New("there are more findings than can be taken at once")
		}
		return nil
	}
	m := wire.CheckRequest{Quick: o.Quick, Names: o.Names}
	if err := f.send(ctx, c, m.Append(nil)); err != nil {
		return res, err
	}
	for {
		select {
		case <-news:
			if err := tell(); err != nil {
				return res, err
			}
		case a := <-end:
			if err := tell(); err != nil {
				return res, err
			}
			if a.err != nil {
				return res, a.err
			}
			return res, json.Unmarshal(a.body, &res)
		case <-ctx.Done():
			return res, context.Cause(ctx)
		}
	}
}

// tuning is what tests change.
type tuning struct {
	checkpointAge   time.Duration // of the first object since the last commit
	checkpointBytes int64         // sent since then
	idsKept         int           // of objects sent since then
	linger          time.Duration // that Close waits for idx files
	credit          int64         // bytes of idx files that are fetched before anything was sent
	cacheLimit      int64         // bytes
	preadIDs        int64         // ids that are looked up without filters
}

var usualTuning = tuning{
	checkpointAge: time.Minute, checkpointBytes: 8 << 20, idsKept: 1 << 19, linger: 2 * time.Second,
	credit: 1 << 20, cacheLimit: 1 << 30, preadIDs: 512,
}
