package fsx

import (
	"os"
	"os/exec"
	"testing"
)

// A child reads the file by its descriptor as often as it likes; others may not.
func TestMemFile(t *testing.T) {
	f, err := MemFile("secret", []byte("open sesame"), os.Geteuid(), os.Getegid())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", "cat /proc/self/fd/3 /proc/self/fd/3; stat -L -c ' %F %a' /proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.CombinedOutput()
	if want := "open sesameopen sesame regular file 400\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	cmd = exec.Command("sh", "-c", "cat /proc/self/fd/3")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a child that did not inherit it reads %q", out)
	}
}
