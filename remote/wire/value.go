package wire

import (
	"encoding/binary"

	"github.com/kedgebackup/kedge/pack"
)

func putUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }
func putInt(b []byte, v int64) []byte   { return binary.AppendVarint(b, v) }
func putText(b []byte, s string) []byte { return append(putUint(b, uint64(len(s))), s...) }
func putID(b []byte, id pack.ID) []byte { return id.AppendBytes(b) }

func putBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// parser takes values off a message. The first that is wrong stops it.
type parser struct {
	b    []byte
	what string // the message
	err  error
}

func (p *parser) fail(reason string) {
	if p.err == nil {
		p.err = badFrame("%s: %s", p.what, reason)
		p.b = nil
	}
}

func (p *parser) uint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || n > 1 && p.b[n-1] == 0 {
		p.fail("a number is wrong or cut short")
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) int() int64 {
	u := p.uint()
	return int64(u>>1) ^ -int64(u&1)
}

func (p *parser) take(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.fail("it is cut short")
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) bytes() []byte { return p.take(p.uint()) }
func (p *parser) text() string  { return string(p.bytes()) }

func (p *parser) bool() bool {
	b := p.take(1)
	if b == nil {
		return false
	}
	if b[0] > 1 {
		p.fail("a truth value is neither 0 nor 1")
	}
	return b[0] == 1
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) id() pack.ID {
	id, rest, ok := pack.CutID(p.b)
	if !ok {
		p.fail("an id is cut short")
		return id
	}
	p.b = rest
	return id
}

// idSize is the length of an id.
const idSize = 20

// count reads how many values of at least size bytes follow: no more than there is
// room for, so that nobody reserves memory for values that did not come.
func (p *parser) count(size int) int {
	n := p.uint()
	if n > uint64(len(p.b)/size) {
		p.fail("a list is longer than its message")
		return 0
	}
	return int(n)
}

// end checks that nothing is left.
func (p *parser) end() error {
	if p.err == nil && len(p.b) > 0 {
		p.fail("bytes are left over")
	}
	return p.err
}
