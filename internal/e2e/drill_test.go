package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// drillRoom is a mirror of three generations whose server is gone.
type drillRoom struct {
	*gateway
	url    string
	unseal []string
	src    string
	trees  []snapshot // of each generation
	bucket string     // where the mirror stands
	keys   map[string]string
}

// newDrillRoom mirrors, with the options of seal, and loses the server.
func newDrillRoom(t *testing.T, seal, unseal []string) *drillRoom {
	t.Helper()
	d := &drillRoom{gateway: startGateway(t), url: "s3://backup/p/alpha", unseal: unseal, src: filepath.Join(t.TempDir(), "src")}
	randomTree(t, rand.New(rand.NewPCG(21, 1)), d.src, 80)
	repo := saved(t, d.src)
	for _, name := range []string{"one", "two", "three"} { // generations 1, 2, 3, all full
		write(t, d.src+"/"+name, []byte(strings.Repeat(name+"\n", 3000)))
		saveAgain(t, repo, d.src)
		d.run(t, append([]string{"mirror", "-d", repo, d.url}, seal...)...)
		d.trees = append(d.trees, take(t, d.src))
	}
	d.keys = sentNames(t, repo)
	check(t, os.RemoveAll(repo))
	list, err := filepath.Glob(filepath.Join(d.data, "backup", "p", "*"))
	if err != nil || len(list) != 1 {
		t.Fatalf("%q, %v", list, err)
	}
	d.bucket = list[0]
	return d
}

// sentNames returns under which key each file of an encrypted mirror stands, as the server knows.
func sentNames(t *testing.T, repo string) map[string]string {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(repo, "kedge", "names-*"))
	check(t, err)
	keys := make(map[string]string)
	for _, list := range lists {
		text, err := os.ReadFile(list)
		check(t, err)
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) > 3 && words[0] == "file" {
				keys[words[2]] = words[1]
			}
		}
	}
	return keys
}

// reading returns a command that reads the mirror.
func (d *drillRoom) reading(args ...string) []string { return append(args, d.unseal...) }

// largest returns the largest file of those in the bucket that are called something.
func (d *drillRoom) largest(t *testing.T, pattern string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(d.bucket, pattern))
	check(t, err)
	for name, key := range d.keys {
		if ok, err := filepath.Match(pattern, name); ok && err == nil {
			list = append(list, filepath.Join(d.bucket, key))
		}
	}
	best, size := "", int64(-1)
	for _, file := range list {
		info, err := os.Stat(file)
		check(t, err)
		if info.Size() > size {
			best, size = file, info.Size()
		}
	}
	if best == "" {
		t.Fatalf("no %s", pattern)
	}
	return best
}

// spoilObject takes a file away, or makes two thirds of it others, until the test has ended.
func spoilObject(t *testing.T, file string, rotten bool) {
	t.Helper()
	bad, err := os.ReadFile(file)
	check(t, err)
	old := filepath.Join(t.TempDir(), filepath.Base(file))
	check(t, os.Rename(file, old))
	t.Cleanup(func() { _ = os.Remove(file); check(t, os.Rename(old, file)) })
	if !rotten {
		return
	}
	for i := len(bad) / 3; i < len(bad); i++ {
		bad[i] ^= 0x20
	}
	write(t, file, bad)
}

// drill is something that is missing or rotten.
type drill struct {
	what  string
	files []string
	named string // in what is said
	saves int    // what comes back: the newest of so many
	whole bool   // by --pull, without --partial
}

var drills = []drill{
	{"nothing", nil, "", 3, true},
	{"newest manifest", []string{"manifests/fffffffffffffffc", "bases/fffffffffffffffc"}, "generation 3", 2, true},
	{"first copy of the newest manifest", []string{"manifests/fffffffffffffffc"}, "generation 3: the second copy of its manifest", 3, true},
	{"base", []string{"manifests/fffffffffffffffe"}, "", 3, true},
	{"segments", []string{"kedge/segments/*"}, "segments", 3, true},
	{"idx", []string{"objects/pack/*.idx"}, "", 3, true},
	{"text", []string{"RESTORE.txt"}, "", 3, true},
	{"pack", []string{"objects/pack/*.pack"}, ".pack", 3, false},
}

// The drill of a mirror of which something is missing or rotten: what is wrong is named, and
// everything that does not need it comes back.
func TestDrills(t *testing.T) {
	key, _ := ageKeys(t)
	t.Run("plain", func(t *testing.T) {
		d := newDrillRoom(t, nil, nil)
		d.all(t)
		d.wrongNames(t)
	})
	t.Run("encrypted", func(t *testing.T) {
		d := newDrillRoom(t, []string{"--encrypt-to", agePublic, "--encrypt-to", agePublic2}, []string{"--identity", key})
		d.all(t)
		d.lostName(t)
	})
}

func (d *drillRoom) all(t *testing.T) {
	for _, x := range drills {
		t.Run(x.what+" missing", func(t *testing.T) {
			y := x
			if x.what == "newest manifest" {
				y.named, y.saves = "", 2 // it is as if that run had never been
			}
			d.drill(t, y, false)
		})
		if x.files != nil {
			t.Run(x.what+" rotten", func(t *testing.T) { d.drill(t, x, true) })
		}
	}
}

func (d *drillRoom) drill(t *testing.T, x drill, rotten bool) {
	for _, pattern := range x.files {
		spoilObject(t, d.largest(t, pattern), rotten)
	}
	start := time.Now()
	d.env = append(d.env, "KEDGE_CACHE_DIR="+t.TempDir())
	out, back := target(t), filepath.Join(t.TempDir(), "alpha")
	r := d.try(t, d.reading("restore", "-r", d.url, "-C", out, "x/latest"+d.src+"/.")...)
	pulled := d.try(t, d.reading("mirror", "--pull", "-d", back, d.url)...)
	if x.whole {
		if r.code != 0 || pulled.code != 0 {
			t.Fatalf("restore: exit %d\n%s\npull: exit %d\n%s", r.code, r.err, pulled.code, pulled.err)
		}
		same(t, d.trees[x.saves-1], take(t, out))
		same(t, d.trees[x.saves-1], restored(t, back, d.src))
		gitClean(t, back)
	} else {
		if r.code != 3 && r.code != 5 || pulled.code != 5 {
			t.Fatalf("restore: exit %d\n%s\npull: exit %d\n%s", r.code, r.err, pulled.code, pulled.err)
		}
		if some := take(t, out); len(some) == 0 {
			t.Errorf("%d of %d files came back", len(some), len(d.trees[x.saves-1]))
		}
		again := d.try(t, d.reading("mirror", "--pull", "--partial", "-d", back, d.url)...)
		if again.code != 5 || !strings.Contains(again.err, ".pack") {
			t.Errorf("pull --partial: exit %d\n%s", again.code, again.err)
		}
		if got := d.run(t, d.reading("cat-file", "-r", d.url, "x/latest"+d.src+"/three")...); got != strings.Repeat("three\n", 3000) {
			t.Errorf("a file of another pack: %d bytes", len(got))
		}
	}
	if !strings.Contains(r.err+pulled.err, x.named) {
		t.Errorf("%q is not named in\n%s%s", x.named, r.err, pulled.err)
	}
	t.Logf("restored and pulled in %v", time.Since(start).Round(time.Millisecond))
}

// wrongNames mistypes addresses.
func (d *drillRoom) wrongNames(t *testing.T) {
	if r := d.try(t, "ls", "-r", "s3://backup/p/alhpa"); r.code != 4 || !strings.Contains(r.err, "did you mean alpha?") || strings.Contains(r.err, "init") {
		t.Errorf("a name that is wrong: exit %d\n%s", r.code, r.err)
	}
	if r := d.try(t, "ls", "-r", "s3://backup/p"); r.code != 4 || !strings.Contains(r.err, "ls -r s3://backup/p/") {
		t.Errorf("a prefix without a slash: exit %d\n%s", r.code, r.err)
	}
	if got := d.run(t, "ls", "-l", "-r", "s3://backup/p/"); !strings.HasPrefix(strings.TrimSpace(got), "3  20") || !strings.HasSuffix(got, "  alpha\n") {
		t.Errorf("ls -l: %q", got)
	}
}

// lostName loses what the repository is called: it is listed by its digits, and comes back by
// them; the others come back as if nothing had happened.
func (d *drillRoom) lostName(t *testing.T) {
	other := saved(t, mkdir(t, t.TempDir(), "other"))
	d.run(t, "mirror", "-d", other, "--encrypt-to", agePublic, "s3://backup/p/beta")
	digits := filepath.Base(d.bucket)
	for _, rotten := range []bool{false, true} {
		t.Run(map[bool]string{false: "name missing", true: "name rotten"}[rotten], func(t *testing.T) {
			spoilObject(t, d.largest(t, "name.age"), rotten)
			got := d.run(t, d.reading("ls", "-r", "s3://backup/p/")...)
			if !strings.Contains("\n"+got, "\nbeta\n") || !strings.Contains("\n"+got, "\n"+digits+"\n") {
				t.Errorf("ls: %q", got)
			}
			if r := d.try(t, d.reading("ls", "-r", d.url)...); r.code == 0 || !rotten == strings.Contains(r.err, digits) {
				t.Errorf("by its name: exit %d\n%s", r.code, r.err)
			}
			out := target(t)
			d.run(t, d.reading("restore", "-r", "s3://backup/p/"+digits, "-C", out, "x/latest"+d.src+"/.")...)
			same(t, d.trees[2], take(t, out))
			root := filepath.Join(t.TempDir(), "root")
			r := d.try(t, d.reading("mirror", "--pull", "--root", root, "s3://backup/p")...)
			if rotten && (r.code == 0 || !strings.Contains(r.err, digits) || !strings.Contains(r.err, "in place of the name")) || !rotten && r.code != 0 {
				t.Errorf("pull: exit %d\n%s", r.code, r.err)
			}
			kedge(t, root+"/beta", "fsck")
			if !rotten {
				same(t, d.trees[2], restored(t, root+"/"+digits, d.src))
			}
		})
	}
}
