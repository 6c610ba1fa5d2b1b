package upload

import (
	"bytes"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/kedgebackup/kedge/pack"
)

// The limits of a request.
const (
	maxWants = 1 << 16
	maxHaves = 1 << 18
	maxFirst = 8 << 10 // bytes of the first line, which has the capabilities
	maxLine  = 1 << 10
)

// features are the capabilities that a client has asked for.
type features struct {
	acks     bool // multi_ack_detailed
	noDone   bool
	sideBand bool // side-band-64k
	tags     bool // include-tag
	quiet    bool // no-progress
}

// parseFeatures reads what stands behind the first want. A capability that was not offered
// is refused: a client that counts on it would take what it gets for something else.
func parseFeatures(text []byte) (f features, err error) {
	for name := range bytes.FieldsSeq(text) {
		key, value, _ := bytes.Cut(name, []byte("="))
		switch c := capability.Capability(key); c {
		case capability.MultiACKDetailed:
			f.acks = true
		case capability.NoDone:
			f.noDone = true
		case capability.Sideband64k:
			f.sideBand = true
		case capability.IncludeTag:
			f.tags = true
		case capability.NoProgress:
			f.quiet = true
		case capability.ThinPack, capability.OFSDelta, capability.Agent:
		case capability.ObjectFormat:
			if string(value) != "sha1" {
				return f, refused("the objects of this repository are named by sha1, not by %.20q", value)
			}
		case capability.Shallow, capability.DeepenSince, capability.DeepenNot, capability.DeepenRelative:
			return f, errShallow
		case capability.Filter:
			return f, errFilter
		default:
			return f, refused("the capability %.40q is not offered here", key)
		}
	}
	return f, nil
}

var (
	errShallow = refused("shallow clones (shallow, deepen) are not served here; clone without --depth")
	errFilter  = refused("partial clones (filter) are not served here; clone without --filter")
)

// command is what a line of a request says.
type command uint8

const (
	flush command = iota
	want
	have
	done
)

// parseLine reads a line of a request; nil is a flush. What stands behind the id of a want
// is returned as rest.
func parseLine(b []byte) (c command, id pack.ID, rest []byte, err error) {
	word, arg, _ := bytes.Cut(b, []byte(" "))
	switch string(word) {
	case "":
		if b == nil {
			return flush, id, nil, nil
		}
	case "done":
		if len(b) == len("done") {
			return done, id, nil, nil
		}
	case "want", "have":
		hex, rest, more := bytes.Cut(arg, []byte(" "))
		if id, err = pack.ParseID(string(hex)); err != nil || more && word[0] == 'h' {
			break
		}
		if word[0] == 'h' {
			return have, id, nil, nil
		}
		return want, id, rest, nil
	case "shallow", "deepen", "deepen-since", "deepen-not":
		return 0, id, nil, errShallow
	case "filter":
		return 0, id, nil, errFilter
	}
	return 0, pack.ID{}, nil, refused("%.60q is no line of a request", b)
}

// readWants reads what the client wants: nothing, if it hangs up or sends a flush.
func (s *session) readWants() (wants []pack.ID, err error) {
	known := s.shownIDs()
	s.line.rearm()
	for limit := maxFirst; ; limit = maxLine {
		b, err := s.next(limit)
		if err == io.EOF && len(wants) == 0 {
			return nil, nil
		} else if err != nil {
			return nil, noEOF(err)
		}
		c, id, rest, err := parseLine(b)
		switch {
		case err != nil:
			return nil, err
		case c == flush:
			return wants, nil
		case c != want:
			return nil, refused("%.60q before the wants end", b)
		case len(wants) == maxWants:
			return nil, refused("more than %d wants", maxWants)
		case len(wants) > 0 && rest != nil:
			return nil, refused("%.60q: capabilities stand in the first line", b)
		}
		if len(wants) == 0 {
			if s.features, err = parseFeatures(rest); err != nil {
				return nil, err
			}
		}
		if _, ok := slices.BinarySearchFunc(known, id, pack.ID.Compare); !ok {
			return nil, refused("%v is no ref here", id)
		}
		wants = append(wants, id)
	}
}

// noEOF returns an error that is not taken for the end of a conversation.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// version returns the version of the protocol for what GIT_PROTOCOL says: keys and values,
// separated by colons.
func version(protocol string) int {
	for key := range strings.SplitSeq(protocol, ":") {
		if key == "version=1" {
			return 1
		}
	}
	return 0
}
