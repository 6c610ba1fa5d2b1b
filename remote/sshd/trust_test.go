package sshd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// A file is trusted if nobody else could have written it.
func TestTrusted(t *testing.T) {
	chmod := func(name string, mode fs.FileMode) func(string) error {
		return func(dir string) error { return os.Chmod(filepath.Join(dir, name), mode) }
	}
	for name, tt := range map[string]struct {
		change func(dir string) error
		open   string // what is said of it if it is no secret; "": it is trusted
		secret string
	}{
		"as it should be":    {chmod("d", 0o755), "", ""},
		"all may read it":    {chmod("d/file", 0o644), "", "others may read it (mode 0644)"},
		"a group may read":   {chmod("d/file", 0o640), "", "others may read it (mode 0640)"},
		"all may write it":   {chmod("d/file", 0o666), "others may write it (mode 0666); chmod 600 it", "others may read it"},
		"a group may write":  {chmod("d/file", 0o620), "others may write it (mode 0620)", "others may read it"},
		"a directory":        {func(dir string) error { return errors.Join(os.Remove(dir+"/d/file"), os.Mkdir(dir+"/d/file", 0o700)) }, "no regular file", "no regular file"},
		"an open directory":  {chmod("d", 0o775), "others may write the directory", "others may write the directory"},
		"a sticky directory": {chmod("d", 0o777|fs.ModeSticky), "", ""},
		"a directory above":  {chmod(".", 0o757), "others may write the directory", "others may write the directory"},
		"a link": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/d/file", dir+"/real"), os.Symlink("../real", dir+"/d/file"))
		}, "", ""},
		"a link to what others write": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/open", 0o700), os.Rename(dir+"/d/file", dir+"/open/real"), os.Chmod(dir+"/open", 0o777), os.Symlink("../open/real", dir+"/d/file"))
		}, "others may write the directory", "others may write the directory"},
		"another's":              {func(dir string) error { return os.Chown(dir+"/d/file", 12345, -1) }, "it belongs to another user", "it belongs to another user"},
		"in another's directory": {func(dir string) error { return os.Chown(dir+"/d", 12345, -1) }, "belongs to another user", "belongs to another user"},
	} {
		if strings.Contains(name, "another") && os.Geteuid() != 0 {
			continue
		}
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(dir+"/d", 0o700), os.WriteFile(dir+"/d/file", nil, 0o600), tt.change(dir)); err != nil {
			t.Fatal(err)
		}
		for secret, want := range map[bool]string{false: tt.open, true: tt.secret} {
			err := trusted(&fsx.FS{}, dir+"/d/file", secret)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, secret %v: %v", name, secret, err)
			}
		}
	}
	if err := trusted(&fsx.FS{}, t.TempDir()+"/none", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
