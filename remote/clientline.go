package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// line is a connection that speaks frames. Three goroutines serve it:
//
//	write  takes messages from a short queue and sends them, in order
//	read   takes replies as they come and hands each to the call that waits for it
//	watch  asks for a sign of life when nothing was heard
//
// read never waits for a caller: a reply is taken in whole and given to the call's
// done, which may not block. So a callback of one call may make another, and the
// server, which may stop reading until it can write, always can.
//
// A call that its caller gives up stays known until its reply came, and the line goes
// on. A line that is lost is lost for all: every call of then and later fails with
// the same *LostError.
type line struct {
	name      string
	lastWords func() string
	conn      io.Closer
	r         *wire.Reader
	heard     *counter
	w         *throttle
	out       chan message
	limits    lineLimits
	served    sync.WaitGroup
	bufs      buffers
	owed      atomic.Bool // objects were sent after the last message that came

	dead chan struct{} // closed when err is set
	mu   sync.Mutex
	err  error
	last uint32 // tag
	open map[uint32]*call
}

// lineLimits are those of the watch.
type lineLimits struct {
	quiet    time.Duration // without a sign of life until a Ping
	pings    int           // unanswered ones until the line is lost
	patience int           // the same while the server works on something
}

// A server answers in order, so a Ping waits behind a question that takes long, and
// how long one may take is not known: looking whether the saves of a foreign
// repository are whole reads them. The transport has keepalives of its own for
// the death of a host.
var usualLimits = lineLimits{quiet: 15 * time.Second, pings: 3, patience: 60}

// queued is how many messages wait for being sent; one holds up to 1 MiB, or one
// object.
const queued = 4

// message is one that waits for being sent. Its body belongs to the line.
type message struct {
	kind wire.Kind
	tag  uint32
	body []byte
}

// call is a request whose reply is still to come.
type call struct {
	kind   wire.Kind
	stands bool // it has no reply if all is well, and stays until it is closed
	// done takes the reply, or why there is none; note takes what comes before.
	// They are called by the goroutine that reads and must not block. The body
	// is theirs.
	done func(body []byte, err error)
	note func(body []byte)
}

// newLine starts a line on a connection that has just changed to frames.
func newLine(g *greeting, limits lineLimits) *line {
	l := &line{
		name: g.name, lastWords: g.lastWords, conn: g.conn, r: wire.NewReader(g.r), heard: g.heard, w: g.w,
		out: make(chan message, queued), limits: limits,
		dead: make(chan struct{}), open: make(map[uint32]*call),
	}
	l.served.Go(l.write)
	l.served.Go(l.read)
	l.served.Go(l.watch)
	return l
}

// close ends the line and waits for its goroutines.
func (l *line) close() error {
	err := l.fail(repo.ErrClosed)
	l.served.Wait()
	return err
}

// fail ends the line for a reason, unless it ended before.
func (l *line) fail(reason error) error {
	if !errors.Is(reason, repo.ErrClosed) {
		reason = &LostError{Server: l.name, Said: l.lastWords(), Err: reason}
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return nil
	}
	l.err = reason
	open := l.open
	l.open = nil
	l.mu.Unlock()
	close(l.dead)
	err := l.conn.Close()
	for _, c := range open {
		c.done(nil, reason)
	}
	return err
}

// lost returns why the line ended, nil if it has not.
func (l *line) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// register gives a call a tag.
func (l *line) register(c *call) (uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	for {
		l.last++
		if _, taken := l.open[l.last]; !taken {
			l.open[l.last] = c
			return l.last, nil
		}
	}
}

// forget removes a call to which no reply will come.
func (l *line) forget(tag uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, tag)
}

// post queues a message; the body is the line's from then on. If it fails nothing
// was or will be sent.
func (l *line) post(ctx context.Context, m message) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case l.out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.dead:
		return l.lost()
	}
}

// send sends a request; c.done is called once if there is no error.
func (l *line) send(ctx context.Context, c *call, body []byte) error {
	tag, err := l.register(c)
	if err != nil {
		return err
	}
	if err := l.post(ctx, message{c.kind, tag, body}); err != nil {
		l.forget(tag)
		return err
	}
	return nil
}

// answer is a reply, or why there is none.
type answer struct {
	body []byte
	err  error
}

// future is an answer to come.
type future chan answer

// start sends a request whose reply is waited for later, or never.
func (l *line) start(ctx context.Context, kind wire.Kind, body []byte) (future, error) {
	f := make(future, 1)
	err := l.send(ctx, &call{kind: kind, done: func(b []byte, err error) { f <- answer{b, err} }}, body)
	return f, err
}

// wait waits for a reply.
func (f future) wait(ctx context.Context) ([]byte, error) {
	select {
	case a := <-f:
		return a.body, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ask sends a request and waits for its reply.
func (l *line) ask(ctx context.Context, kind wire.Kind, body []byte) ([]byte, error) {
	f, err := l.start(ctx, kind, body)
	if err != nil {
		return nil, err
	}
	return f.wait(ctx)
}

// write sends what is queued.
func (l *line) write() {
	w := wire.NewWriter(l.w)
	for {
		var m message
		select {
		case m = <-l.out:
		case <-l.dead:
			return
		}
		l.w.hush = m.kind == wire.Ping
		if m.kind == wire.Add {
			l.owed.Store(true)
		}
		err := w.Send(m.kind, m.tag, m.body)
		if err == nil && len(l.out) == 0 {
			err = w.Flush()
		}
		if err != nil {
			l.fail(err)
			return
		}
		l.bufs.put(m.body)
	}
}

// read takes what comes.
func (l *line) read() {
	for {
		kind, tag, body, err := l.r.Next(l.bufs.get()[:0])
		if err == nil {
			err = l.take(kind, tag, body)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// take gives a message to its call.
func (l *line) take(kind wire.Kind, tag uint32, body []byte) error {
	if kind != wire.OK && kind != wire.Fail && kind != wire.Note {
		return fmt.Errorf("%w: it asks instead of answering", wire.ErrProtocol)
	}
	l.owed.Store(false)
	l.mu.Lock()
	c := l.open[tag]
	if c != nil && !c.stands && kind != wire.Note {
		delete(l.open, tag)
	}
	gone := l.err != nil
	l.mu.Unlock()
	body = l.bufs.fit(body)
	switch {
	case gone:
		return nil // fail has called done
	case c == nil || c.stands && kind != wire.Fail || kind == wire.Note && c.note == nil:
		return fmt.Errorf("%w: it answers what was not asked", wire.ErrProtocol)
	case kind == wire.Note:
		c.note(body)
	case kind == wire.OK:
		c.done(body, nil)
	default:
		failure, err := wire.ParseFailure(body)
		if err != nil {
			failure = err
		}
		c.done(nil, failure)
		return err
	}
	return nil
}

// watch sends a Ping when the line has been silent, and gives the line up when several
// were not answered. Bytes that can still be written are a sign of life too: on
// a slow line a Ping stands behind what was sent before it.
func (l *line) watch() {
	tick := time.NewTicker(l.limits.quiet)
	defer tick.Stop()
	var heard, wrote int64
	silent := 0
	for {
		select {
		case <-l.dead:
			return
		case <-tick.C:
		}
		h, w := l.heard.n.Load(), l.w.n.Load()
		if h != heard || w != wrote {
			heard, wrote, silent = h, w, 0
			continue
		}
		silent++
		if limit := l.silence(); limit > 0 && silent > limit {
			l.fail(fmt.Errorf("nothing was heard for %v", time.Duration(silent)*l.limits.quiet))
			return
		}
		l.ping()
	}
}

// silence returns for how many pings the server may be silent, 0 for ever.
func (l *line) silence() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.limits.pings
	if l.owed.Load() {
		limit = l.limits.patience
	}
	for _, c := range l.open {
		switch {
		case c.kind == wire.Check:
			return 0
		case c.kind != wire.Ping && !c.stands:
			limit = l.limits.patience
		}
	}
	return limit
}

// ping sends a Ping if there is room for it: a full queue cannot get rid of one.
func (l *line) ping() {
	tag, err := l.register(&call{kind: wire.Ping, done: func([]byte, error) {}})
	if err != nil {
		return
	}
	select {
	case l.out <- message{wire.Ping, tag, nil}:
	default:
		l.forget(tag)
	}
}

// buffers keeps those of messages for the next one.
type buffers struct{ pool sync.Pool }

const (
	bufSize = wire.MaxFrame + 64<<10 // room for what is gathered into a message
	bufKept = 2 << 20
	bufGive = 128 << 10 // a body below is copied, and its buffer is kept
)

// get returns an empty buffer.
func (p *buffers) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

// put takes a buffer back, if it is worth keeping.
func (p *buffers) put(b []byte) {
	if cap(b) >= bufGive && cap(b) <= bufKept {
		b = b[:0]
		p.pool.Put(&b)
	}
}

// fit returns a body that may be kept for long: a small one does not hold on to a
// large buffer.
func (p *buffers) fit(body []byte) []byte {
	if len(body) >= bufGive || cap(body) <= bufGive {
		return body
	}
	small := append(make([]byte, 0, len(body)), body...)
	p.put(body)
	return small
}
