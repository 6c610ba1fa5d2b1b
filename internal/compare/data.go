package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// makeSet makes dir/day1 and dir/day2. The same seed gives the same bytes, but
// for tree, which is made of the Go installation's own files.
func makeSet(set, dir string, scale float64) error {
	r := rand.New(rand.NewPCG(1, 2))
	d1, d2 := filepath.Join(dir, "day1"), filepath.Join(dir, "day2")
	for _, d := range []string{d1, d2} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	switch set {
	case "dump":
		return makeDump(r, d1, d2, int(6.5e6*scale))
	case "media":
		return makeMedia(r, d1, d2, int(50e6*scale))
	case "small":
		return makeSmall(r, d1, d2, int(2000*scale))
	case "tree":
		return makeTree(r, d1, d2)
	}
	return fmt.Errorf("unknown; there are dump, media, small and tree")
}

// makeDump writes an SQL dump of n rows; on the second day one row in a thousand
// is changed, lost or new, all over the file.
func makeDump(r *rand.Rand, d1, d2 string, n int) (err error) {
	f1, err := os.Create(filepath.Join(d1, "bugs.sql"))
	if err != nil {
		return err
	}
	defer f1.Close()
	f2, err := os.Create(filepath.Join(d2, "bugs.sql"))
	if err != nil {
		return err
	}
	defer f2.Close()
	w1, w2 := bufio.NewWriterSize(f1, 1<<20), bufio.NewWriterSize(f2, 1<<20)
	words := makeWords(r, 40000)
	for i := range n {
		row := sqlRow(r, words, i)
		w1.WriteString(row)
		switch z := r.Float64(); {
		case z < .0005:
			w2.WriteString(sqlRow(r, words, i))
		case z < .0006:
		case z > .9995:
			w2.WriteString(row)
			w2.WriteString(sqlRow(r, words, n+i))
		default:
			w2.WriteString(row)
		}
	}
	for i := range n / 100 {
		w2.WriteString(sqlRow(r, words, 2*n+i))
	}
	if err := w1.Flush(); err != nil {
		return err
	}
	return w2.Flush()
}

func makeWords(r *rand.Rand, n int) []string {
	words := make([]string, n)
	for i := range words {
		b := make([]byte, 2+r.IntN(9))
		for j := range b {
			b[j] = "etaoinshrdlcumwfgypbvkjxqz"[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = string(b)
	}
	return words
}

func sqlRow(r *rand.Rand, words []string, id int) string {
	var text []string
	for range 3 + r.IntN(11) {
		text = append(text, words[r.IntN(len(words))])
	}
	return fmt.Sprintf("INSERT INTO `RACES` VALUES (%d,'%s','%s',%d.%06d,%d.%06d,'2014-%02d-%02d %02d:%02d:%02d','%016x%016x',NULL);\n",
		id, words[r.IntN(len(words))], strings.Join(text, " "), r.IntN(180)-90, r.IntN(1e6), r.IntN(360)-180, r.IntN(1e6),
		1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.Uint64(), r.Uint64())
}

// makeMedia writes thirty files that do not compress; the second day has two
// more, and one with a megabyte put into it.
func makeMedia(r *rand.Rand, d1, d2 string, size int) error {
	for i := range 30 {
		b := randomBytes(r, size)
		name := fmt.Sprintf("%02d.mp4", i)
		if err := os.WriteFile(filepath.Join(d1, name), b, 0o644); err != nil {
			return err
		}
		if i == 7 {
			b = append(append(append([]byte{}, b[:size*2/5]...), randomBytes(r, min(1e6, size))...), b[size*2/5:]...)
		}
		if err := os.WriteFile(filepath.Join(d2, name), b, 0o644); err != nil {
			return err
		}
	}
	for _, n := range []string{"90.mp4", "91.mp4"} {
		if err := os.WriteFile(filepath.Join(d2, n), randomBytes(r, size), 0o644); err != nil {
			return err
		}
	}
	return keepTimes(d1, d2)
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b[:n]
}

// makeSmall writes a hundred mails in each of n directories.
func makeSmall(r *rand.Rand, d1, d2 string, n int) error {
	for d := range n {
		dir := filepath.Join(d1, fmt.Sprintf("%02d/%04d", d%40, d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range 100 {
			mail := fmt.Sprintf("From: a@b\nSubject: %d\n\n%s", r.IntN(1e9), hex.EncodeToString(randomBytes(r, 20+r.IntN(1180))))
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("msg%03d.eml", f)), []byte(mail), 0o644); err != nil {
				return err
			}
		}
	}
	return secondDay(r, d1, d2)
}

func makeTree(r *rand.Rand, d1, d2 string) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		root = []byte(runtime.Version())
	}
	for _, from := range []string{strings.TrimSpace(string(root)) + "/src", "/usr/share/doc", "/usr/include"} {
		if _, err := os.Stat(from); err != nil {
			continue
		}
		if err := quiet("cp", "-a", from, filepath.Join(d1, strings.ReplaceAll(from[1:], "/", "_"))); err != nil {
			return err
		}
	}
	return secondDay(r, d1, d2)
}

func keepTimes(d1, d2 string) error {
	names, err := filepath.Glob(filepath.Join(d1, "*"))
	if err != nil {
		return err
	}
	for _, n := range names {
		a, err := os.Stat(n)
		if err != nil {
			return err
		}
		b, err := os.Stat(filepath.Join(d2, filepath.Base(n)))
		if err != nil || a.Size() != b.Size() {
			continue
		}
		if err := os.Chtimes(filepath.Join(d2, filepath.Base(n)), a.ModTime(), a.ModTime()); err != nil {
			return err
		}
	}
	return nil
}

// secondDay copies a tree and changes one file in a hundred, removes a few and
// adds a few.
func secondDay(r *rand.Rand, d1, d2 string) error {
	if err := os.Remove(d2); err != nil {
		return err
	}
	if err := quiet("cp", "-a", d1, d2); err != nil {
		return err
	}
	return filepath.WalkDir(d2, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		switch x := r.Float64(); {
		case x < .002:
			return os.Remove(p)
		case x < .012:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			at := r.IntN(len(b) + 1)
			b = append(append(append([]byte{}, b[:at]...), fmt.Sprintf("## changed %d ##\n", r.IntN(1e9))...), b[at:]...)
			return os.WriteFile(p, b, 0o644)
		case x < .017:
			return os.WriteFile(p+".new", []byte(fmt.Sprintf("new %d\n", r.IntN(1e9))), 0o644)
		}
		return nil
	})
}
