package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// extract has a program read an archive.
func extract(t testing.TB, archive []byte, dir string, argv ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Env = dir, bytes.NewReader(archive), append(os.Environ(), "LC_ALL=C.UTF-8")
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("%q: %v\n%s", argv, err, text)
	}
}

// readers are the programs that read archives, whichever are installed.
func readers(t testing.TB) map[string][]string {
	all := map[string][]string{
		"tar":    {"tar", "-x", "-p", "--warning=no-timestamp", "--same-owner", "--xattrs", "--xattrs-include=*", "--acls"},
		"bsdtar": {"bsdtar", "-x", "-p", "-f", "-"},
	}
	for name := range all {
		if _, err := exec.LookPath(name); err != nil {
			t.Logf("no %s here", name)
			delete(all, name)
		}
	}
	return all
}

// TestTarHoles: what is in a file does not depend on whether its holes are holes
// in the archive, whoever reads it; and the archive is as short as the data.
func TestTarHoles(t *testing.T) {
	needs(t, false, "tar")
	zero := strings.Repeat("\x00", 64<<10)
	hole := func(n int) (chunks []string) {
		for range n {
			chunks = append(chunks, zero)
		}
		return chunks
	}
	join := func(parts ...[]string) (all []string) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	data := []string{"some data", "more of it" + strings.Repeat("x", 600)}
	files := map[string][]string{
		"front":                    join(hole(32), data),
		"end":                      join(data, hole(32)),
		"end, odd":                 join(data, hole(32), []string{zero[:77]}),
		"middle":                   join(data, hole(16), data, hole(64), data),
		"all":                      hole(40),
		"short":                    join(data, hole(3), data),
		strings.Repeat("long", 40): join(data, hole(16), data),
		"new\nline \u00fc":         join(data, hole(16), data),
		"ones":                     join([]string{strings.Repeat("\xff", 64<<10)}, []string{strings.Repeat("\xff", 64<<10)}, hole(16)),
	}
	s := newSaver(t)
	var kids []entry
	for name, chunks := range files {
		kids = append(kids, entry{name: name, chunks: chunks})
	}
	s.save("s", dir("d", kids...))
	r := s.done()
	for _, sparse := range []bool{true, false} {
		var b bytes.Buffer
		res, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/d"}, Sparse: sparse}, &b)
		total := int64(0)
		for _, chunks := range files {
			total += int64(len(strings.Join(chunks, "")))
		}
		if err != nil || res.Errors != 0 || res.Files != int64(len(files)) || res.Bytes != total {
			t.Fatalf("%+v, not %d bytes, error %v", res, total, err)
		}
		if most := 600 << 10; sparse && b.Len() > most || !sparse && int64(b.Len()) < total {
			t.Errorf("sparse %v: the archive has %d bytes", sparse, b.Len())
		}
		if b.Len()%512 != 0 {
			t.Errorf("the archive has %d bytes", b.Len())
		}
		for name, argv := range readers(t) {
			out := filepath.Join(scratch(t), "out")
			extract(t, b.Bytes(), out, argv...)
			for file, chunks := range files {
				if content(t, filepath.Join(out, "d", file)) != strings.Join(chunks, "") {
					t.Errorf("%s, sparse %v: %.10q has other content", name, sparse, file)
				}
			}
			if got := blocks(t, filepath.Join(out, "d/middle")); sparse && got > 64<<10 {
				t.Errorf("%s: middle takes %d bytes", name, got)
			}
		}
		for tr := tar.NewReader(&b); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(tr)
			if want := strings.Join(files[strings.TrimPrefix(h.Name, "d/")], ""); err != nil || string(body) != want {
				t.Errorf("sparse %v: %.10q has %d bytes, not %d; error %v", sparse, h.Name, len(body), len(want), err)
			}
		}
	}
}

// counted counts what is written.
type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

// TestTarHugeHole: 64 GiB of which three bytes are there make an archive of
// kilobytes.
func TestTarHugeHole(t *testing.T) {
	if testing.Short() {
		t.Skip("walks many chunks")
	}
	zero := strings.Repeat("\x00", 1<<20)
	chunks := make([]string, 64<<10, 64<<10+1)
	for i := range chunks {
		chunks[i] = zero
	}
	r := saved(t, entry{name: "huge", chunks: append(chunks, "end")})
	var n counted
	res, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/huge"}, Sparse: true}, &n)
	if err != nil || res.Bytes != 64<<30+3 || n > 16<<10 {
		t.Errorf("%+v in %d bytes, error %v", res, n, err)
	}
}

// TestTarManyHoles: the map has an end; what is behind it is written out.
func TestTarManyHoles(t *testing.T) {
	zero := strings.Repeat("\x00", tarHole/2)
	s := newSaver(t)
	id, one := s.blob(zero), s.blob("1")
	ct := repo.ChunkTree{Emit: s.tree}
	for range tarHoles + 10 {
		s.must(ct.Add(one, 1, 0))
		s.must(ct.Add(id, int64(len(zero)), 0))
		s.must(ct.Add(id, int64(len(zero)), 0))
	}
	e, _, err := ct.Finish()
	s.must(err)
	s.save("s", file1("f", "x"))
	r := s.done()
	run, err := newRun(context.Background(), Options{Repo: r, Sparse: true})
	if err != nil {
		t.Fatal(err)
	}
	defer run.close()
	h, err := (&archive{r: run}).holed(repo.OpenFile(context.Background(), r, e.ID, true), ct.Size())
	if err != nil || h == nil {
		t.Fatal(h, err)
	}
	last := h.parts[len(h.parts)-1]
	if len(h.parts) != tarHoles+1 || last.off+last.size != ct.Size() || last.size < 10*tarHole {
		t.Errorf("%d parts, the last is %+v", len(h.parts), last)
	}
}

// TestTarLyingHoles: chunks of zeros that are not as long as their tree says are
// found out, though nobody writes them.
func TestTarLyingHoles(t *testing.T) {
	s := newSaver(t)
	zero := s.blob(strings.Repeat("\x00", 4096))
	x := s.blob("x")
	var body []byte
	for i := range 64 {
		body = append(body, treeOf(repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("%06x", i*8192), ID: zero})...)
	}
	body = append(body, treeOf(repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("%06x", 64*8192), ID: x})...)
	s.save("s", entry{name: "f", chunks: []string{"a", "b"}})
	r := s.done()
	lying := &swappedRepo{r, map[pack.ID][]byte{find(t, r, "s/latest/f"): body}}
	o := Options{Repo: lying, Paths: []string{"s/latest/f"}, Sparse: true}
	if _, err := Tar(context.Background(), o, io.Discard); err == nil || !strings.Contains(err.Error(), "has 4096 bytes, not 8192") {
		t.Errorf("error %v", err)
	}
	o.Out = scratch(t)
	if res, e := restored(t, o); res.Errors != 1 || !strings.Contains(strings.Join(e.warn, " "), "4096 bytes where there should be 8192") {
		t.Errorf("%+v %q", res, e.warn)
	}
}

// TestTarReaders compares what other programs extract with what was saved.
func TestTarReaders(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl", "bsdtar")
	base := scratch(t)
	src, out := filepath.Join(base, "src"), filepath.Join(base, "out")
	hardTree(t, src)
	r, _ := bupSave(t, base, src)
	var b bytes.Buffer
	if _, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/."}, Sparse: true}, &b); err != nil {
		t.Fatal(err)
	}
	extract(t, b.Bytes(), out, readers(t)["bsdtar"]...)
	want, got := snapshot(t, src), snapshot(t, out)
	for _, name := range []string{
		"sock", // has no place in an archive
		".",    // bsdtar does not put its time right
		"big",  // bsdtar takes the fraction of a time before 1970 for one after it
	} {
		delete(want, name)
		delete(got, name)
	}
	sameTrees(t, got, want)
}

// TestTarOddName: a name that is no UTF-8, of a file with holes.
func TestTarOddName(t *testing.T) {
	needs(t, false, "tar")
	zero := strings.Repeat("\x00", 64<<10)
	r := saved(t, entry{name: "\xff\n", chunks: []string{"x", zero, zero, zero, zero, zero, "y"}})
	var b bytes.Buffer
	if _, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/"}, Sparse: true}, &b); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(scratch(t), "out")
	extract(t, b.Bytes(), out, readers(t)["tar"]...)
	if got := content(t, filepath.Join(out, "\xff\n")); got != "x"+strings.Repeat(zero, 5)+"y" {
		t.Errorf("%d bytes", len(got))
	}
}

// TestTarHeader reads headers of all sorts with another reader.
func TestTarHeader(t *testing.T) {
	long := strings.Repeat("n", 100)
	for i, h := range []tarHeader{
		{kind: tarFile, name: "a", mode: 0o644, uid: 1, gid: 2, user: "u", group: "g"},
		{kind: tarFile, name: long, mode: 0o7777},
		{kind: tarFile, name: "dir/" + long, mode: 0o600, uid: max8, gid: max8 + 1},
		{kind: tarSymlink, name: "l", link: long + "/" + long, uid: math.MaxUint32},
		{kind: tarDir, name: "d\xff\n/", user: strings.Repeat("u", 33), group: "grüppe"},
		{kind: tarChar, name: "c", major: 4095, minor: 1<<20 - 1},
		{kind: tarFile, name: "t", timed: true, mtime: fsx.Time{Sec: -1, Nsec: 500_000_000}, atime: fsx.Time{Sec: 1 << 40, Nsec: 1}},
		{kind: tarFile, name: "t", timed: true, mtime: fsx.Time{Sec: -3, Nsec: 999_999_999}, atime: fsx.Time{Sec: 5}},
		{kind: tarFile, name: "r", records: []tarRecord{{"SCHILY.xattr.user.x", "a\x00=\n" + long}}},
		{kind: tarFile, name: "big", size: max12 + 1},
	} {
		got, err := tar.NewReader(bytes.NewReader(append(h.append(nil), zeroTar[:]...))).Next()
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if got.Name != h.name || got.Linkname != h.link || got.Typeflag != h.kind || got.Mode != int64(h.mode) || got.Size != h.size ||
			int64(got.Uid) != h.uid || int64(got.Gid) != h.gid || got.Uname != h.user || got.Gname != h.group ||
			got.Devmajor != h.major || got.Devminor != h.minor {
			t.Errorf("%d: %+v\nis read as %+v", i, h, got)
		}
		if h.timed && (!got.ModTime.Equal(time.Unix(h.mtime.Sec, int64(h.mtime.Nsec))) || !got.AccessTime.Equal(time.Unix(h.atime.Sec, int64(h.atime.Nsec)))) {
			t.Errorf("%d: %+v\nis read as %+v", i, h, got)
		}
		for _, r := range h.records {
			if got.PAXRecords[r.key] != r.value {
				t.Errorf("%d: record %q is %q", i, r.key, got.PAXRecords[r.key])
			}
		}
	}
	if got := string(appendRecord(nil, "mtime", "1700000000.123456789")); got != "30 mtime=1700000000.123456789\n" {
		t.Errorf("%q", got)
	}
	for n := range 2000 { // wherever the length gets a digit more
		rec := string(appendRecord(nil, "k", strings.Repeat("v", n)))
		if !strings.HasPrefix(rec, fmt.Sprintf("%d k=", len(rec))) {
			t.Fatalf("%d: %.10q of %d bytes", n, rec, len(rec))
		}
	}
}
