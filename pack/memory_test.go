package pack

import (
	"errors"
	"fmt"
	"io"
)

// memory is an Output in memory that can trace what is done to it, fail at the
// failAt-th operation, and damage what is read back.
type memory struct {
	b      []byte
	trace  []string
	traced bool
	ops    int
	failAt int // from one on; 0: never
	short  bool
	damage func(b []byte, off int64)
}

var errPlanted = errors.New("planted failure")

func (m *memory) op(format string, args ...any) error {
	m.ops++
	if m.traced {
		m.trace = append(m.trace, fmt.Sprintf(format, args...))
	}
	if m.ops == m.failAt {
		return errPlanted
	}
	return nil
}

func (m *memory) Write(p []byte) (int, error) {
	if err := m.op("write %d", len(p)); err != nil {
		n := len(p) / 2
		m.b = append(m.b, p[:n]...)
		if m.short {
			return n, nil
		}
		return n, err
	}
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) StartSync(off, n int64) error { return m.op("start %d at %d", n, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.op("pwrite %d at %d", len(p), off); err != nil {
		if m.short {
			return 0, nil
		}
		return 0, err
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if err := m.op("pread %d at %d", len(p), off); err != nil {
		if m.short {
			return 0, io.EOF
		}
		return 0, err
	}
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if m.damage != nil {
		m.damage(p[:n], off)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
