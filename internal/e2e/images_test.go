package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// holedFile makes a file of a size with random data at some places.
func holedFile(t testing.TB, name string, size int64, places ...int64) map[int64][]byte {
	t.Helper()
	f, err := os.Create(name)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(size))
	data := map[int64][]byte{}
	for _, at := range places {
		b := make([]byte, min(mib+12345, size-at))
		_, err := rand.Read(b)
		check(t, err)
		_, err = f.WriteAt(b, at)
		check(t, err)
		data[at] = b
	}
	return data
}

// sameSparse compares a file with what holedFile made, and looks whether it has holes still.
func holesKept(t testing.TB, name string, size int64, data map[int64][]byte) {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	defer f.Close()
	var st unix.Stat_t
	check(t, unix.Fstat(int(f.Fd()), &st))
	most := int64(0)
	for at, want := range data {
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: what is at %d differs: %v", name, at, err)
		}
		most += int64(len(want)) + 2*mib // the pieces that it has a part of
	}
	if st.Size != size || st.Blocks*512 > most {
		t.Errorf("%s: %d bytes, want %d, of which %d are on the disk", name, st.Size, size, st.Blocks*512)
	}
	// Outside of what was written there are zeros: holes are, and the rest is looked at.
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			break
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		check(t, err)
		buf := make([]byte, to-from)
		_, err = f.ReadAt(buf, from)
		check(t, err)
		for place, want := range data {
			if lo, hi := max(place, from), min(place+int64(len(want)), to); lo < hi {
				clear(buf[lo-from : hi-from])
			}
		}
		if len(bytes.Trim(buf, "\x00")) > 0 {
			t.Errorf("%s: between %d and %d is what was never written", name, from, to)
		}
		at = to
	}
}

// An image of ten gigabytes, most of which is holes, is saved by the config and brought back
// with its holes; a smaller one also as the output of a command, and by run --restore, which
// have to handle all the zeros.
func TestSparseImage(t *testing.T) {
	const size, small = 10 * gib, gib
	device := "[[job.stream]]\nname = %q\npreset = \"device\"\nfile = \"HERE/%[1]s.img\"\n"
	h := newHost(t, "[[job]]\nname = \"db\"\n"+fmt.Sprintf(device, "disk")+fmt.Sprintf(device, "small"))
	data := holedFile(t, h.dir+"/disk.img", size, 0, size/3+77, size-4096)
	img := h.dir + "/small.img"
	smallData := holedFile(t, img, small, 5, small/2+77, small-4096)
	night := h.night(t, 0)["db"]
	if night.Read < size+small || night.Read > size+small+mib || night.Stored > 12*mib {
		t.Errorf("%+v", night)
	}
	if again := h.night(t, 0)["db"]; again.New > 10_000 {
		t.Errorf("again: %+v", again)
	}
	// Through a pipe nobody can tell where the holes are. It is the same file all the same.
	kedge(t, h.repo, "save", "-n", "pipe", "--stream", ".streams/small=cat "+img)
	id := func(name string) string {
		return strings.Fields(kedge(t, h.repo, "ls", "--hash", name+"/latest/.streams/small"))[0]
	}
	if id("db") != id("pipe") {
		t.Errorf("the output of cat is another file: %s, %s", id("db"), id("pipe"))
	}
	out := t.TempDir()
	kedge(t, h.repo, "restore", "-C", out, "db/latest/.streams/disk")
	holesKept(t, out+"/disk", size, data)

	if r := h.try(t, "run", "--restore", "small"); r.code != 2 || !strings.Contains(r.err, "small.img is not empty") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	check(t, os.Rename(img, img+".was"))
	h.reverse(t, "small")
	holesKept(t, img, small, smallData)
	gitClean(t, h.repo)
}

// loop makes a file a block device.
func loop(t testing.TB, file string) string {
	t.Helper()
	needRoot(t)
	needs(t, "losetup")
	r := command(t, nil, "losetup", "--find", "--show", file)
	if r.code != 0 {
		t.Skip("no loop devices here: ", r.err)
	}
	device := strings.TrimSpace(r.out)
	t.Cleanup(func() { _ = command(t, nil, "losetup", "--detach", device) })
	return device
}

// A block device is saved with long zeros passed over, and is written over only if that is
// asked for and nobody uses it. Zeros are written then: the device had something else there.
func TestBlockDevice(t *testing.T) {
	const size = 200 * mib
	file := filepath.Join(t.TempDir(), "backing")
	data := holedFile(t, file, size, 0, 77*mib+512, size-4096)
	device := loop(t, file)
	h := newHost(t, fmt.Sprintf("[[job]]\nname = \"db\"\n[[job.stream]]\nname = \"disk\"\npreset = \"device\"\nfile = %q\n", device))
	night := h.night(t, 0)["db"]
	if night.Read < size || night.Read > size+mib || night.Stored > 6*mib {
		t.Errorf("%+v", night)
	}
	spoil(t, device, size)
	if r := h.try(t, "run", "--restore", "disk"); r.code != 2 || !strings.Contains(r.err, "would be overwritten") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	if said := h.reverse(t, "disk", "--force"); !strings.Contains(said, "what is on it is lost") {
		t.Error(said)
	}
	f, err := os.Open(device)
	check(t, err)
	defer f.Close()
	for at := int64(0); at < size; at += mib {
		got, want := make([]byte, mib), make([]byte, mib)
		_, err := io.ReadFull(f, got)
		check(t, err)
		for place, b := range data {
			if lo, hi := max(place, at), min(place+int64(len(b)), at+mib); lo < hi {
				copy(want[lo-at:], b[lo-place:hi-place])
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("the device differs at %d MiB", at/mib)
		}
	}
	// A file system that is mounted is not written under.
	must(t, "mkfs.ext4", "-q", device)
	mnt := mkdir(t, h.dir, "mnt")
	must(t, "mount", device, mnt)
	defer must(t, "umount", mnt)
	if r := h.try(t, "run", "--restore", "disk", "--force"); r.code != 1 || !strings.Contains(r.err, "is in use") {
		t.Errorf("mounted: exit %d\n%s", r.code, r.err)
	}
}

// spoil fills a device with ones.
func spoil(t testing.TB, device string, size int64) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	check(t, err)
	ones := bytes.Repeat([]byte{0xff}, mib)
	for range size / mib {
		_, err := f.Write(ones)
		check(t, err)
	}
	check(t, f.Sync())
	check(t, f.Close())
}

// The recipe of docs/operate/snapshots.md: a read-only snapshot is saved under the path of what
// it was taken of, while that goes on; afterwards it is gone.
func TestBtrfsSnapshot(t *testing.T) {
	needRoot(t)
	mkfs := needs(t, "mkfs.btrfs")
	dir := t.TempDir()
	holedFile(t, dir+"/disk", 300*mib)
	device := loop(t, dir+"/disk")
	must(t, mkfs, "-q", device)
	h := newHost(t, `
[[job]]
name = "db"
paths = ["HERE/mnt/.kedge"]
graft = ["HERE/mnt/.kedge=HERE/mnt/data"]
[job.hooks]
before   = ["echo stopped > HERE/mnt/data/state"]
snapshot = ["btrfs subvolume snapshot -r HERE/mnt/data HERE/mnt/.kedge"]
resume   = ["echo running > HERE/mnt/data/state"]
finally  = ["test ! -e HERE/mnt/.kedge || btrfs subvolume delete HERE/mnt/.kedge"]
`)
	mnt := mkdir(t, h.dir, "mnt")
	r := command(t, nil, "mount", device, mnt)
	if r.code != 0 {
		t.Skip("btrfs cannot be mounted here: ", r.err)
	}
	defer must(t, "umount", mnt)
	must(t, "btrfs", "subvolume", "create", mnt+"/data")
	var sum int64
	for i := range 200 {
		b := make([]byte, 10_000+i)
		_, err := rand.Read(b)
		check(t, err)
		write(t, fmt.Sprintf("%s/data/%d", mnt, i), b)
		sum += int64(len(b))
	}
	first := h.night(t, 0)["db"]
	at := "db/latest" + mnt + "/data/"
	if got := kedge(t, h.repo, "cat-file", at+"state"); got != "stopped\n" {
		t.Errorf("saved was %q: not the snapshot", got)
	}
	if text, err := os.ReadFile(mnt + "/data/state"); string(text) != "running\n" || err != nil {
		t.Errorf("what goes on is %q, %v", text, err)
	}
	if _, err := os.Stat(mnt + "/.kedge"); !os.IsNotExist(err) {
		t.Errorf("the snapshot stays: %v", err)
	}
	if first.Read < sum {
		t.Errorf("%+v, of %d bytes", first, sum)
	}
	write(t, mnt+"/data/7", []byte("changed"))
	second := h.night(t, 0)["db"]
	t.Logf("first %d bytes read, then %d", first.Read, second.Read)
	if second.New > 100_000 || second.Read > sum/2 {
		t.Errorf("the next snapshot: %+v", second)
	}
	if got := kedge(t, h.repo, "cat-file", at+"7"); got != "changed" {
		t.Errorf("%q", got)
	}
	gitClean(t, h.repo)
}
