package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// TestTar compares what GNU tar extracts with what was saved.
func TestTar(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl", "tar")
	base := scratch(t)
	src, out := filepath.Join(base, "src"), filepath.Join(base, "out")
	hardTree(t, src)
	r, _ := bupSave(t, base, src)
	var b bytes.Buffer
	e := &events{}
	res, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/."},
		Warn: func(p string, err error) { e.warn = append(e.warn, p+": "+err.Error()) }}, &b)
	if err != nil || res.Errors != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], "socket") {
		t.Fatalf("%+v %q %v", res, e.warn, err)
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tar", "-x", "-p", "--warning=no-timestamp", "--same-owner", "--xattrs", "--xattrs-include=*", "--acls", "-C", out)
	cmd.Stdin = &b
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("tar: %v\n%s", err, text)
	}
	want, got := snapshot(t, src), snapshot(t, out)
	delete(want, "sock")
	sameTrees(t, got, want)
}

// TestTarEntries reads an archive with another reader.
func TestTarEntries(t *testing.T) {
	kids := append(etc(), linked("h1", "hard", "/h1"), dir("zz", linked("h2", "hard", "/h1")), file1(strings.Repeat("long", 60), "x"))
	r := saved(t, kids...)
	for _, c := range []struct {
		path string
		want string
	}{
		{"s/latest/etc", "etc/ etc/big etc/empty etc/link=passwd etc/passwd etc/sub/ etc/sub/deep etc/sub/none/"},
		{"s/latest/etc/", "big empty link=passwd passwd sub/ sub/deep sub/none/"},
		{"s/latest/etc/.", "./ big empty link=passwd passwd sub/ sub/deep sub/none/"},
		{"s/latest/etc/big", "big"},
		{"s/latest/etc/passwd", "passwd"},
		{"s/latest/etc/link", "link=passwd"},
		{"s/latest/zz", "zz/ zz/h2"},
		{"s/latest/", "etc/ etc/big etc/empty etc/link=passwd etc/passwd etc/sub/ etc/sub/deep etc/sub/none/ h1 " + strings.Repeat("long", 60) + " top zz/ zz/h2=h1"},
	} {
		var b bytes.Buffer
		res, err := Tar(context.Background(), Options{Repo: r, Paths: []string{c.path}}, &b)
		if err != nil || res.Errors != 0 {
			t.Fatalf("%+v %v", res, err)
		}
		var names []string
		tr := tar.NewReader(&b)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			name := h.Name
			if h.Linkname != "" {
				name += "=" + h.Linkname
			}
			names = append(names, name)
			if !h.ModTime.Equal(time.Unix(stamp.Sec, int64(stamp.Nsec))) || h.Typeflag == tar.TypeReg && h.Mode != 0o644 {
				t.Errorf("%s: %+v", h.Name, h)
			}
			if body, err := io.ReadAll(tr); err != nil || h.Name == "etc/big" && string(body) != "abcdefghi" {
				t.Errorf("%s holds %q, error %v", h.Name, body, err)
			}
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.path, got, c.want)
		}
	}
}

// TestTarDamage: what cannot be begun is left out; what breaks off ends the archive.
func TestTarDamage(t *testing.T) {
	r := saved(t, etc()...)
	var warn []string
	o := Options{Repo: broken(t, r, "s/latest/etc/passwd"), Paths: []string{"s/latest"}, Warn: func(p string, err error) { warn = append(warn, err.Error()) }}
	res, err := Tar(context.Background(), o, io.Discard)
	if err != nil || res.Errors != 1 || len(warn) != 1 || !strings.Contains(warn[0], "s/latest/etc/passwd") {
		t.Errorf("%+v %q %v", res, warn, err)
	}
	b := broken(t, r)
	for _, of := range []string{"abc", "i"} {
		clear(b.bad)
		id := pack.Sum(pack.Blob, []byte(of))
		b.bad[id] = corrupt(id)
		o.Repo, warn = b, nil
		res, err = Tar(context.Background(), o, io.Discard)
		var oe *ObjectError
		if of == "i" { // the last chunk tells the size, so nothing was begun
			if err != nil || res.Errors != 1 {
				t.Errorf("%+v %v", res, err)
			}
		} else if !errors.As(err, &oe) || oe.Path != "s/latest/etc/big" {
			t.Errorf("%+v %v", res, err)
		}
	}
}

// TestTarRefuses what has no place in an archive: it is counted, the rest is there.
func TestTarRefuses(t *testing.T) {
	r := saved(t, file1("f", "x"), entry{name: "sock", mode: meta.TypeSocket | 0o755}, entry{name: "odd", mode: 0o170644},
		entry{name: "who", body: "y", edit: func(m *meta.Meta) { m.UID = -5 }},
		entry{name: "dev", mode: meta.TypeChar | 0o600, edit: func(m *meta.Meta) { m.Rdev = 0x11_11_2c_70 }},
		entry{name: "xattr", body: "z", edit: func(m *meta.Meta) {
			m.Extras.Xattrs = []meta.Xattr{{Name: "user.a=b", Value: "1"}, {Name: "user.ok", Value: "2"}}
		}})
	var b bytes.Buffer
	var warn []string
	res, err := Tar(context.Background(), Options{Repo: r, Paths: []string{"s/latest/"}, Numeric: true,
		MapUID: map[uint32]uint32{uint32(os.Geteuid()): 1234}, MapGID: map[uint32]uint32{uint32(os.Getegid()): 1235},
		Warn: func(p string, err error) { warn = append(warn, p) }}, &b)
	slices.Sort(warn)
	if err != nil || res.Errors != 4 || strings.Join(warn, " ") != "/odd /sock /who /xattr" {
		t.Fatalf("%+v %q %v", res, warn, err)
	}
	tr := tar.NewReader(&b)
	h, err := tr.Next()
	if err != nil || h.Name != "dev" || h.Devmajor != 0x12c || h.Devminor != 0x11170 || h.Uid != 1234 || h.Gid != 1235 || h.Uname != "" {
		t.Errorf("%+v %v", h, err)
	}
	if h, err = tr.Next(); err != nil || h.Name != "f" {
		t.Errorf("%+v %v", h, err)
	}
	if h, err = tr.Next(); err != nil || h.Name != "xattr" || h.PAXRecords["SCHILY.xattr.user.ok"] != "2" {
		t.Errorf("%+v %v", h, err)
	}
	if h, err = tr.Next(); err != io.EOF {
		t.Errorf("%+v %v", h, err)
	}
}
