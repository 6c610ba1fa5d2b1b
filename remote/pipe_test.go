package remote

import (
	"os"
	"testing"
	"time"
)

// A widened pipe takes what a usual one does not, and stays one whose reads have deadlines.
// What is no pipe is left alone.
func TestWidenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	WidenPipe(r)
	if err := w.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(make([]byte, pipeSize)); err != nil {
		t.Errorf("it took %d bytes: %v", n, err)
	}
	if err := r.SetReadDeadline(time.Now()); err != nil {
		t.Errorf("its reads have no deadline any more: %v", err)
	}
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	WidenPipe(f)
	if _, err := f.Readdirnames(-1); err != nil {
		t.Error(err)
	}
}
