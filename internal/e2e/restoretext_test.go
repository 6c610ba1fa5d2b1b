package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// restoreCommands returns the commands of RESTORE.txt, with one of its tools, and without
// the first step, which is for the reader to fill in.
func restoreCommands(t testing.TB, text, tool string) string {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n2. ")
	if !ok {
		t.Fatal("RESTORE.txt has no second step")
	}
	tools, rest, ok := strings.Cut(text, "\n3. ")
	if !ok {
		t.Fatal("RESTORE.txt has no third step")
	}
	for part := range strings.SplitSeq(tools, "\n   ") { // commands are set in by one more
		if strings.HasPrefix(part, tool+" ") || strings.HasPrefix(part, "or "+tool+",") {
			_, tools, _ = strings.Cut(tools, part)
			break
		}
	}
	if next := strings.Index(tools, "\n   or "); next >= 0 {
		tools = tools[:next]
	}
	var b strings.Builder
	for line := range strings.Lines(tools + "\n" + rest) {
		if strings.HasPrefix(line, "    ") {
			b.WriteString(line[4:])
		}
	}
	return b.String()
}

// What RESTORE.txt in the bucket says is done line by line, with each of its tools: the data
// come back. Neither a base nor a changed text nor a file in pieces is in the way.
func TestRestoreText(t *testing.T) {
	g := startGateway(t)
	src := mkdir(t, t.TempDir(), "src")
	var lines strings.Builder
	for i := range 40_000 {
		lines.WriteString(strings.Repeat("x", i%50) + string(rune('a'+i%26)) + "\n")
	}
	write(t, src+"/large", []byte(lines.String()))
	write(t, mkdir(t, src, "a/b")+"/small", []byte("small\n"))
	repo := saved(t, src)
	url := "s3://backup/p/solo"
	g.run(t, "mirror", "-d", repo, url)
	for _, name := range []string{"one", "two"} {
		write(t, src+"/"+name, []byte(name+"\n"))
		saveAgain(t, repo, src)
		g.run(t, "mirror", "-d", repo, url)
	}
	bucket := filepath.Join(g.data, "backup", "p", "solo")
	text, err := os.ReadFile(filepath.Join(bucket, "RESTORE.txt"))
	check(t, err)
	host := ""
	for _, v := range g.env {
		if at, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL=http://"); ok {
			host = at
		}
	}
	want := take(t, src)
	for _, tool := range []struct{ name, options string }{
		{"curl", ""},
		{"aws", "--endpoint-url http://" + host},
		{"s3cmd", "--host=" + host + " --host-bucket=" + host + " --no-ssl"},
	} {
		t.Run(tool.name, func(t *testing.T) {
			if out, err := exec.Command(tool.name, "--version").CombinedOutput(); err != nil {
				t.Skipf("needs %s: %v %s", tool.name, err, out)
			}
			dir := t.TempDir()
			script := "set -e\nFROM=" + url + "\nURL=http://" + host + "/backup/p/solo\nOPTIONS='" + tool.options + "'\n" +
				restoreCommands(t, string(text), tool.name)
			c := exec.Command("sh", "-c", script)
			c.Dir = dir
			c.Env = append(os.Environ(), append(g.env, "HOME="+dir)...)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s\n%s", err, out, script)
			}
			for name := range want {
				data, err := os.ReadFile(filepath.Join(src, name))
				if err != nil {
					continue // a directory
				}
				got, err := os.ReadFile(filepath.Join(dir, "out", src, name))
				if err != nil || string(got) != string(data) {
					t.Errorf("%s: %d bytes, %v, not %d", name, len(got), err, len(data))
				}
			}
		})
	}
}
