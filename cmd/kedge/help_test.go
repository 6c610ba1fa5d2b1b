package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// output runs a command line that needs nothing of the world but its output.
func output(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err strings.Builder
	code = run(context.Background(), append([]string{name}, args...), world{Stdin: strings.NewReader(""),
		Stdout: &out, Stderr: &err, Env: func(string) string { return "" }, FS: &fsx.FS{}})
	return out.String(), err.String(), code
}

// commands returns all that a user can type.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	var list []*cobra.Command
	for _, c := range testApp("kedge").root().Commands() {
		if c.Runnable() && !c.Hidden {
			list = append(list, c)
		}
	}
	if len(list) < 10 {
		t.Fatalf("only %d commands", len(list))
	}
	return list
}

// Every command says what it is for, how it is called and what each of its
// options does, in text that fits a terminal.
func TestHelpIsComplete(t *testing.T) {
	for _, c := range commands(t) {
		name := c.Name()
		out, _, code := output(t, "kedge", name, "--help")
		if code != 0 {
			t.Errorf("%s --help: exit %d", name, code)
		}
		first, _, _ := strings.Cut(c.Long, " ")
		if !strings.EqualFold(first, name) {
			t.Errorf("%s: the help begins with %q, not with the name", name, first)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || strings.ToLower(c.Short[:1]) != c.Short[:1] {
			t.Errorf("%s: short help %q", name, c.Short)
		}
		if c.Example == "" && name != "help" {
			t.Errorf("%s has no example", name)
		}
		for _, want := range []string{"kedge " + c.Use, "kedge help exit-codes", "docs/exit-codes.md"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s --help does not say %q", name, want)
			}
		}
		for n, line := range strings.Split(out, "\n") {
			if len([]rune(line)) > 88 {
				t.Errorf("%s --help: line %d is %d wide", name, n+1, len([]rune(line)))
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			switch {
			case f.Hidden:
			case f.Usage == "":
				t.Errorf("%s --%s has no help", name, f.Name)
			case !strings.Contains(out, "--"+f.Name):
				t.Errorf("%s --help does not show --%s", name, f.Name)
			case f.NoOptDefVal == "" && !strings.Contains(f.Usage, "`") && f.Value.Type() == "string":
				t.Errorf("%s --%s does not name its value", name, f.Name)
			}
		})
	}
}

// The same letter means the same option everywhere, but for those that bup gives another
// meaning in each command.
func TestShorthandsAgree(t *testing.T) {
	meaning := map[string]string{}
	for _, c := range commands(t) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Shorthand == "" || strings.Contains("cdfnstxSHR", f.Shorthand) {
				return
			}
			if was, ok := meaning[f.Shorthand]; ok && was != f.Name {
				t.Errorf("%s: -%s is --%s, elsewhere --%s", c.Name(), f.Shorthand, f.Name, was)
			}
			meaning[f.Shorthand] = f.Name
		})
	}
}

// No option may be the beginning of a number of others such that it cannot be
// cut short to what bup's users type.
func TestBupSpellings(t *testing.T) {
	for _, line := range []string{
		"index -u -p -m -s -H -l -x -f i -v --check --clear --fake-valid --fake-invalid --update --print --modified --status " +
			"--hash --long --xdev --one-file-system --indexfile i --exclude a --exclude-from a --exclude-rx a --exclude-rx-from a --no-check-device --verbose",
		"save -t -c -n a -d 1 -v -q --smaller 1 --bwlimit 1 -f i --strip --strip-path a --graft a=b -9 --compress 1 --tree --commit --name a --date 1 --quiet --verbose --indexfile i",
		"ls -s --hash --commit-hash -a -A -l -d -F --classify --file-type --human-readable -n --numeric-ids --all --almost-all --long --directory",
		"restore -C a --outdir a --numeric-ids --exclude-rx a --exclude-rx-from a --sparse --no-sparse -v -q --map-user a=b --map-group a=b --map-uid 1=2 --map-gid 1=2",
		"cat-file --meta --bupm",
		"init", "version --date --commit", "help",
	} {
		if _, _, err := normalise(testApp("bup").root(), strings.Fields(line)); err != nil {
			t.Errorf("%.20s: %v", line, err)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, tt := range []struct {
		args     string
		code     int
		out, err string
	}{
		{"help", 0, "kedge backup /etc", ""},
		{"--help", 0, "kedge backup /etc", ""},
		{"-h", 0, "kedge backup /etc", ""},
		{"-?", 0, "kedge backup /etc", ""},
		{"help save", 0, "--stream", ""},
		{"help add", 0, "kedge index [", ""},
		{"save --he", 0, "--stream", ""},
		{"help exit-codes", 0, "130", ""},
		{"help sav", 2, "", "did you mean save?"},
		{"", 2, "", "no command given"},
		{"--version", 0, "kedge " + version + "\n", ""},
		{"-V", 0, "kedge " + version + "\n", ""},
		{"version", 0, "kedge " + version + "\n", ""},
		{"-v version", 0, "commit ", ""},
	} {
		out, err, code := output(t, "kedge", strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(err, tt.err) || (code == 0) != (err == "") {
			t.Errorf("kedge %s: exit %d\n%s%s", tt.args, code, out, err)
		}
	}
	if _, err, code := output(t, "bup", "save", "--nonsense"); code != 97 || !strings.HasPrefix(err, "usage: bup save ") {
		t.Errorf("bup: exit %d\n%s", code, err)
	}
	if _, _, code := output(t, "bup", "nonsense"); code != 2 {
		t.Errorf("bup: exit %d", code)
	}
}

// The shells themselves check the scripts, where they are installed.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, stderr, code := output(t, "kedge", "completion", shell)
		if code != 0 || stderr != "" || !strings.Contains(out, "kedge") {
			t.Fatalf("%s: exit %d\n%s", shell, code, stderr)
		}
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("no %s to check its script with", shell)
			continue
		}
		cmd := exec.Command(shell, "-n")
		cmd.Stdin = strings.NewReader(out)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, msg)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"sa", "save\t"}, {"save --str", "--stream"}, {"completion ", "fish\n"}, {"help ex", "exit-codes"}, {"add --excl", "--exclude-rx"},
	} {
		args := strings.Split("__complete "+tt.args, " ")
		if out, _, code := output(t, "kedge", args...); code != 0 || !strings.Contains(out, tt.want) {
			t.Errorf("completion of %q: exit %d\n%s", tt.args, code, out)
		}
	}
}

// The manual is made of the same text as the help, and mandoc or man reads it.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, code := output(t, "kedge", "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	for _, c := range append(commands(t), testApp("kedge").root()) {
		page := "kedge.1"
		if c.HasParent() {
			page = "kedge-" + c.Name() + ".1"
		}
		text, err := os.ReadFile(filepath.Join(dir, page))
		if c.Hidden || c.Name() == "help" {
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if flag := strings.ReplaceAll("--"+f.Name, "-", `\-`); !f.Hidden && !bytes.Contains(text, []byte(flag)) {
				t.Errorf("%s does not show %s", page, flag)
			}
		})
		if _, err := exec.LookPath("man"); err == nil {
			cmd := exec.Command("man", "--warnings", "-l", filepath.Join(dir, page))
			cmd.Env = append(os.Environ(), "MANPAGER=cat", "LC_ALL=C.UTF-8", "MANROFFSEQ=")
			cmd.Stdout = io.Discard
			var msg strings.Builder
			cmd.Stderr = &msg
			if err := cmd.Run(); err != nil || msg.Len() > 0 {
				t.Errorf("man %s: %v\n%s", page, err, &msg)
			}
		}
	}
}

// Commands below commands have a help and a page, too.
func TestSubcommandsHaveHelp(t *testing.T) {
	n := 0
	for _, c := range testApp("kedge").root().Commands() {
		for _, sub := range c.Commands() {
			if sub.Hidden || sub.Name() == "help" {
				continue
			}
			n++
			out, errs, code := output(t, "kedge", c.Name(), sub.Name(), "--help")
			if code != 0 || !strings.Contains(out, "\n  kedge "+c.Name()+" "+sub.Name()) || !strings.Contains(out, "--help") {
				t.Errorf("kedge %s %s --help: exit %d\n%s%s", c.Name(), sub.Name(), code, out, errs)
			}
		}
	}
	if n < 9 {
		t.Errorf("only %d commands below others", n)
	}
	dir := t.TempDir()
	if _, errs, code := output(t, "kedge", "man", dir); code != 0 {
		t.Fatal(errs)
	}
	page, err := os.ReadFile(dir + "/kedge-schedule-install.1")
	if err != nil || !strings.Contains(string(page), "\nkedge schedule install") {
		t.Errorf("%v\n%s", err, page)
	}
	if out, _, _ := output(t, "kedge", "schedule", "install", "--json", "--config", dir+"/none"); !strings.Contains(out, `"command":"schedule install"`) {
		t.Error(out)
	}
}
