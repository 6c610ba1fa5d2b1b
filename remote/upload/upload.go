// Package upload is the server's side of git fetch and git clone: git-upload-pack over a
// repository, with git's protocol, versions 0 and 1. It only reads.
//
// # The conversation
//
// Everything is pkt-lines: four hexadecimal digits, the length of the line with them, and
// the line. "0000" is a flush. First the server tells what there is:
//
//	version 1                                      if the client asked for it
//	ID HEAD \0 capabilities                        the first line has them, whichever it is
//	ID refs/heads/etc
//	ID refs/tags/v1
//	ID refs/tags/v1^{}                             what the tag above leads to
//	flush
//
// A repository without refs has one line, "0000…0 capabilities^{}". The client hangs up or
// sends a flush if it wants nothing, else
//
//	want ID capabilities
//	want ID
//	flush
//	have ID                                        commits it has, in batches
//	flush                                          answered by ACKs and a NAK
//	done                                           answered by an ACK or a NAK
//
// and then comes the pack, in lines of up to 65515 bytes behind a byte 1 if the client
// speaks side-band-64k. Lines that begin with 2 are progress, with 3 the error on which it
// ends. An error before the pack is a line "ERR " and the reason.
//
// A whole conversation, as TestConversation has it, S for the server, of a repository of
// one save with 20 files:
//
//	S 000eversion 1\n
//	S 00c2<id> HEAD\0multi_ack_detailed no-done side-band-64k thin-pack ofs-delta include-tag
//	  no-progress symref=HEAD:refs/heads/main object-format=sha1 agent=kedge\n
//	S 003d<id> refs/heads/main\n 0000
//	C 004cwant <id> side-band-64k no-progress\n 0000 0009done\n
//	S 0008NAK\n
//	S 03c6\1PACK 00000002 00000016 …              22 objects
//	S 0000
//
// # Capabilities
//
//	multi_ack_detailed  ACKs say "common" for a commit that both have, and "ready" once all
//	                    wants lead to one
//	no-done             the pack follows "ready", without a done
//	side-band-64k       as above
//	thin-pack           taken note of; every delta has its base in the pack
//	ofs-delta           taken note of; deltas name their base by id
//	include-tag         tags come with what they point to
//	no-progress         nothing on band 2
//	symref=HEAD:…       which ref HEAD is
//	object-format=sha1, agent=kedge
//
// Others are refused by name, and so are the lines shallow, deepen and filter: a clone of
// backups that lacks part of them is none.
//
// # What is sent
//
// All that the wants reach, but for what the commits named by the client reach: their
// history, and of the trees those of the commits that the client named and of those on
// which the new ones stand. An object that has been away for a while and comes back is
// sent once more.
//
// Of each object a bit is remembered (repo.Selection). The pack holds commits and tags,
// then trees, then blobs, each in the order in which they stand in the packs of the
// repository, copied as they are stored.
//
// # Limits
//
//	65,536 wants, 262,144 haves, 10 tags upon each other
//	1,024 bytes in a line of a request, 8,192 in the first
//	5 min for the wants, for each batch of haves, and for a mebibyte of the pack to be taken
//	1 s and a mebibyte of what a client still says after it was refused
//	131,072 trees that are known and not read; those beyond are a bit each
//	262,144 loose objects, if one of them is reached
package upload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Options says how a client is answered. The zero value is good.
type Options struct {
	// Protocol is what the client says in GIT_PROTOCOL, "version=1". A request for a
	// version above 1 is answered in version 0, as servers do that know no other.
	Protocol string
	// Allowed reports whether the client may see a ref; nil: all.
	Allowed func(ref string) bool
	// Idle is how long the client may keep the server waiting: 5 min.
	Idle time.Duration
	// Large is shared by the sessions of a process, as in repo.NewSelection.
	Large chan struct{}
}

// Serve answers one git-upload-pack on conn. It returns nil if the client got what it
// asked for or asked for nothing. An error was told to the client, so far as it is about
// the request. If conn has a SetReadDeadline, limits of time are kept with it, else by
// closing conn.
func Serve(ctx context.Context, conn io.ReadWriter, r *repo.Packs, o Options) error {
	if o.Idle <= 0 {
		o.Idle = 5 * time.Minute
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := &line{rw: conn, idle: o.Idle}
	defer context.AfterFunc(ctx, line.cut)()
	s := &session{
		o: o, r: r, line: line,
		in: pktline.NewScanner(bufio.NewReader(line)), w: bufio.NewWriterSize(line, pktline.MaxPayloadSize+4),
	}
	s.out = pktline.NewEncoder(s.w)
	err := s.serve(ctx)
	if err != nil && s.tell(err) == nil && !s.packing {
		line.drain()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// session is one conversation.
type session struct {
	o    Options
	r    *repo.Packs
	line *line
	in   *pktline.Scanner
	w    *bufio.Writer
	out  *pktline.Encoder // on w

	shown    []shownRef
	features features
	sel      *repo.Selection
	walk     *walk
	band     *band // nil before the pack, and without side-band-64k
	packing  bool
}

// serve leads the conversation.
func (s *session) serve(ctx context.Context) error {
	if err := s.advertise(ctx); err != nil {
		return err
	}
	wants, err := s.readWants()
	if err != nil || len(wants) == 0 {
		return err
	}
	if s.sel, err = s.r.NewSelection(ctx, s.o.Large); err != nil {
		return err
	}
	s.walk = &walk{r: s.r, sel: s.sel, most: maxStack}
	common, err := s.negotiate(ctx, wants)
	if err != nil {
		return err
	}
	return s.sendPack(ctx, wants, common)
}

// next returns the next line of the client, without the newline at its end; nil is a
// flush. io.EOF: there is none, because the client has hung up between two lines.
func (s *session) next(limit int) ([]byte, error) {
	if !s.in.Scan() {
		if err := s.in.Err(); err != nil {
			return nil, noEOF(err) // within a line
		}
		return nil, io.EOF
	}
	b := s.in.Bytes()
	if len(b) > limit {
		return nil, refused("a line of %d bytes", len(b))
	}
	if len(b) == 0 {
		return nil, nil
	}
	if b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b, nil
}

func refused(format string, args ...any) error {
	return &repo.RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// tell tells the client on what its request ends. Where things are on the server, and
// what is wrong with them, is not for it to know. A client that is gone is told nothing.
func (s *session) tell(err error) error {
	text := "the session ended with an error, which the log of the server names"
	var (
		refused *repo.RefusedError
		busy    *repo.BusyError
	)
	switch {
	case errors.As(err, &refused):
		text = refused.Error()
	case errors.As(err, &busy):
		text = busy.Error()
	case errors.As(err, new(*repo.MissingError)), errors.As(err, new(*pack.CorruptError)), errors.Is(err, pack.ErrTooLarge):
		text = "the repository is damaged; the log of the server says where"
	case errors.Is(err, pktline.ErrInvalidPktLen):
		text = "no length at the beginning of a line"
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
	err = nil
	switch {
	case s.band != nil:
		err = s.band.message(sideband.ErrorMessage, text+"\n")
	case !s.packing: // else it would be part of the pack
		err = (&pktline.ErrorLine{Text: text}).Encode(s.w)
	}
	return errors.Join(err, s.w.Flush())
}
