package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Somebody who may write to the bucket puts another manifest in the place of one, which reads as
// well: status and verify name the two generations, and the next run believes nothing, once.
func TestMirrorChain(t *testing.T) {
	d, url, src := startGateway(t), "s3://backup/p/alpha", mkdir(t, t.TempDir(), "src")
	repo := saved(t, src)
	for _, name := range []string{"one", "two", "three"} {
		write(t, src+"/"+name, []byte(name))
		saveAgain(t, repo, src)
		d.run(t, "mirror", "-d", repo, url)
	}
	bucket := filepath.Join(d.data, "backup", "p", "alpha")
	for _, dir := range []string{"manifests", "bases"} {
		file := filepath.Join(bucket, dir, "fffffffffffffffd") // generation 2
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) && dir == "bases" {
			continue
		}
		check(t, err)
		text, _, ok := bytes.Cut(text, []byte("-----BEGIN SSH"))
		if !ok || !bytes.Contains(text, []byte("\nhead refs/heads/main\n")) {
			t.Fatalf("%s", text)
		}
		check(t, os.Remove(file))
		write(t, file, bytes.Replace(text, []byte("\nhead refs/heads/main\n"), []byte("\nhead refs/heads/other\n"), 1))
	}
	want := "generation 3 was made on top of another generation 2"
	if r := d.try(t, "mirror", "status", url); r.code != 0 || !strings.Contains(r.err, want) || !strings.Contains(r.out, "1 generation not the one") {
		t.Errorf("status: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := d.try(t, "mirror", "verify", url); r.code != 5 || !strings.Contains(r.err, want) {
		t.Errorf("verify: exit %d\n%s", r.code, r.err)
	}
	if r := d.try(t, "ls", "-r", url); r.code != 0 {
		t.Errorf("ls: exit %d\n%s", r.code, r.err)
	}
	if r := d.try(t, "mirror", "-d", repo, url); r.code != 0 || !strings.Contains(r.err, want) {
		t.Errorf("the next run: exit %d\n%s", r.code, r.err)
	}
	if _, err := os.Stat(filepath.Join(bucket, "manifests", "fffffffffffffffb")); err != nil {
		t.Error(err)
	}
	if r := d.try(t, "mirror", "verify", url); r.code != 0 || strings.Contains(r.err, "another") {
		t.Errorf("verify after that: exit %d\n%s", r.code, r.err)
	}
}
