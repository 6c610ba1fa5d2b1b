package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// marker is what recoveries have done on this machine, recover/recover.json in the state
// directory. It is replaced and made durable before each step that could not be told from
// another afterwards. Who removes it makes the next recovery a first one, which moves aside
// whatever it finds.
type marker struct {
	Format  string                 `json:"format"` // kedge-recovered/1
	Places  map[string]*placeMark  `json:"places"`
	Streams map[string]*streamMark `json:"streams"`

	fs   *fsx.FS
	file string
}

const markerFormat = "kedge-recovered/1"

// placeMark is how far a place has come. Commit is of the save that it is, or is to be.
type placeMark struct {
	Phase  phase  `json:"phase"`
	Commit string `json:"commit"`
	Aside  string `json:"aside,omitempty"` // the end of the names that what was there got
}

// phase is a step of a first recovery. From phaseSwap and phaseFill on what was there is aside.
type phase string

const (
	phaseStage phase = "stage" // restoring beside the place; nothing has been moved
	phaseSwap  phase = "swap"  // what is staged is complete, and goes into place
	phaseClear phase = "clear" // moving aside what is in the place
	phaseFill  phase = "fill"  // restoring in place
	phaseDone  phase = "done"
)

// streamMark says what of a stream was loaded. Loading: it was begun, and not ended. Ours: what
// is there is nobody else's, because one was loaded whole before, or nothing was there.
type streamMark struct {
	ID      string `json:"id"`
	Loading bool   `json:"loading,omitempty"`
	Ours    bool   `json:"ours,omitempty"`
}

func readMarker(fsys *fsx.FS, file string) (*marker, error) {
	m := &marker{Format: markerFormat, fs: fsys, file: file}
	text, err := fsys.ReadFile(file, 16<<20)
	if err == nil {
		if err = json.Unmarshal(text, m); err == nil && m.Format != markerFormat {
			err = fmt.Errorf("its format is %.40q, and %q is known", m.Format, markerFormat)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; without it, whatever is in the way is moved aside again", file, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if m.Places == nil {
		m.Places = make(map[string]*placeMark)
	}
	if m.Streams == nil {
		m.Streams = make(map[string]*streamMark)
	}
	return m, nil
}

// write makes the marker durable.
func (m *marker) write() error {
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return m.fs.Replace(m.file, append(text, '\n'), 0o600)
}

// ours reports whether a place is a recovery's, or lies in one that is.
func (m *marker) ours(place string) bool {
	for p, mark := range m.Places {
		if mark.Phase == phaseDone && within(place, p) {
			return true
		}
	}
	return false
}
