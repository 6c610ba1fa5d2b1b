package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// testApp returns a program that touches nothing.
func testApp(name string) *app {
	return newApp(name, world{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		Env: func(string) string { return "" }, FS: &fsx.FS{}})
}

// The grammar is that of bup's manual, the words are kedge's.
func TestNormalise(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		// Options and operands may be mixed, "--" ends the options.
		{"save /etc -n etc", "save --name=etc -- /etc"},
		{"save -n etc -- -x -n", "save --name=etc -- -x -n"},
		{"save -n etc - /a", "save --name=etc -- - /a"},
		{"save", "save"},
		// Values: four ways.
		{"save -netc /a", "save --name=etc -- /a"},
		{"save --name etc /a", "save --name=etc -- /a"},
		{"save --name=etc /a", "save --name=etc -- /a"},
		{"save --name= /a", "!option --name: its value is empty"},
		{"--dir= ls", "!option --dir: its value is empty"},
		{"ls --bup-dir=", "!option --bup-dir: its value is empty"},
		{"save -n -t /a", "save --name=-t -- /a"},
		{"save -n=etc /a", "save --name==etc -- /a"},
		{"save --stream a=b=c", "save --stream=a=b=c"},
		// Clusters.
		{"save -tcn etc /a", "save --tree=true --commit=true --name=etc -- /a"},
		{"save -tcnetc /a", "save --tree=true --commit=true --name=etc -- /a"},
		{"index -vvx /a", "index --verbose=+1 --verbose=+1 --one-file-system=true -- /a"},
		// Unique prefixes; an exact name wins over longer ones.
		{"save --smal 10k --bw 5M /a", "save --smaller=10k --bwlimit=5M -- /a"},
		{"save --strip /a", "save --strip=true -- /a"},
		{"save --strip-p /x /a", "save --strip-path=/x -- /a"},
		{"index --exclude /x /a", "index --exclude=/x -- /a"},
		{"index --xdev /a", "index --xdev=true -- /a"},
		// Both directions of switches.
		{"restore --no-sparse a/latest/b", "restore --sparse=false -- a/latest/b"},
		{"restore --sparse --no-spar a/latest/b", "restore --sparse=true --sparse=false -- a/latest/b"},
		{"index --no-check-device /a", "index --no-check-device=true -- /a"},
		{"index --check-device /a", "index --no-check-device=false -- /a"},
		{"index --check /a", "index --check=true -- /a"},
		{"save --no-verbose -v /a", "save --verbose=0 --verbose=+1 -- /a"},
		// Levels, only where there are levels.
		{"save -9 -n x /a", "save --compress=9 --name=x -- /a"},
		{"save -t0c /a", "save --tree=true --compress=0 --commit=true -- /a"},
		{"save --compress 3 /a", "save --compress=3 -- /a"},
		{"save --no-compress /a", "!there is no option --no-compress"},
		{"index -9 /a", "!there is no option -9"},
		// In front of the command -d is the directory, behind it what the command says.
		{"-d /r ls -d a/latest", "--dir=/r ls --directory=true -- a/latest"},
		{"-d /r save -d 17 -n x /a", "--dir=/r save --date=17 --name=x -- /a"},
		{"restore -d /r a/latest", "restore --dir=/r -- a/latest"},
		{"--bup-dir=/r init", "--bup-dir=/r init"},
		{"--bup-dir /r ls --dir /s", "--bup-dir=/r ls --dir=/s"},
		{"ls --dir /r a", "ls --dir=/r -- a"},
		{"-d/r --json init", "--dir=/r --json=true init"},
		// Help.
		{"save -h", "save --help=true"},
		{"save -?", "save --help=true"},
		{"save --usage", "save --help=true"},
		{"--help", "--help=true"},
		{"add -x /a", "index --one-file-system=true -- /a"},
		// Mistakes.
		{"save --dir", "!option --dir needs a value"},
		{"save -n", "!option -n needs a value"},
		{"save --str", "!option --str may be --stream or --strip or --strip-path"},
		{"save --nonsense", "!there is no option --nonsense"},
		{"save -Z", "!there is no option -Z"},
		{"save --tree=1 /a", "!option --tree takes no value"},
		{"save --no-tree=1 /a", "!option --no-tree takes no value"},
		{"save --bup", "!there is no option --bup"},
		{"-x save", "!there is no option -x"},
		{"frobnicate", `!there is no command "frobnicate"`},
		{"save --na\x1bme x", `!there is no option --na\x1bme`},
	} {
		argv, _, err := normalise(testApp("kedge").root(), strings.Fields(tt.in))
		got := strings.Join(argv, " ")
		if err != nil {
			got = "!" + err.Error()
		}
		if got != tt.want {
			t.Errorf("%q\n gave %q\n want %q", tt.in, got, tt.want)
		}
		var usage *usageError
		if err != nil && !errors.As(err, &usage) {
			t.Errorf("%q: %v is no usage error", tt.in, err)
		}
	}
}

// An empty word is a value that somebody's script has lost, in whichever way it is
// given.
func TestEmptyValues(t *testing.T) {
	for _, args := range [][]string{
		{"-d", "", "ls"}, {"--dir", "", "ls"}, {"ls", "--dir", ""}, {"-r", "", "ls"}, {"init", "-d", ""},
		{"save", "-tn", "", "/a"}, {"index", "-f", "", "/a"}, {"save", "-n", "x", "--strip-path", "", "/a"},
		{"save", "-n", "x", "--smaller", "", "/a"}, {"restore", "-C", "", "a/latest"}, {"index", "--exclude", "", "/a"},
	} {
		argv, _, err := normalise(testApp("kedge").root(), args)
		var usage *usageError
		if !errors.As(err, &usage) || !strings.HasSuffix(err.Error(), ": its value is empty") {
			t.Errorf("%q: %q, %v", args, argv, err)
		}
	}
	if argv, _, err := normalise(testApp("kedge").root(), []string{"ls", ""}); err != nil || len(argv) != 3 {
		t.Errorf("an empty operand: %q, %v", argv, err)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"save", "restore", "ls", "index", "init", "fsck"}
	for in, want := range map[string]string{
		"sav": "save", "saev": "save", "restroe": "restore", "indx": "index", "fskc": "fsck",
		"backup": "", "xyzzy": "", strings.Repeat("save", 1000): "",
	} {
		if got := nearest(in, names); got != want {
			t.Errorf("nearest(%.10q) = %q, want %q", in, got, want)
		}
	}
}

// Whatever the normaliser lets through, cobra's parser must understand in the
// same way: the last word of every option is its value there too.
func FuzzNormalise(f *testing.F) {
	f.Add("save\x00-n\x00etc\x00/etc")
	f.Add("-d\x00/r\x00ls\x00-d\x00--\x00-x")
	f.Add("save\x00-9tc\x00--smal=10k\x00-")
	f.Fuzz(func(t *testing.T, line string) {
		root := testApp("kedge").root()
		argv, cmd, err := normalise(root, strings.Split(line, "\x00"))
		if err != nil || cmd == root || strings.HasPrefix(line, cobra.ShellCompRequestCmd) {
			return
		}
		i := 0
		for argv[i] != cmd.Name() || strings.HasPrefix(argv[i], "-") {
			i++
		}
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		cmd.Flags().VisitAll(func(g *pflag.Flag) {
			// The values are not judged here: every option takes any.
			c := *g
			c.Value = new(anything)
			flags.AddFlag(&c)
		})
		if err := flags.Parse(argv[i+1:]); err != nil {
			t.Fatalf("%q: %v", argv, err)
		}
	})
}

type anything struct{}

func (*anything) Set(string) error { return nil }
func (*anything) String() string   { return "" }
func (*anything) Type() string     { return "" }

// A bad value is a mistake in the command line too, and named by its option.
func TestBadValues(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"save -n x --smaller ten /a", "option --smaller: \"ten\" is no size"},
		{"save -n x --compress nine /a", "option --compress: "},
		{"save -n x --compress 10 /a", "option --compress: there is no level 10"},
		{"save -n x -d yesterday /a", "option --date: \"yesterday\" is no date"},
		{"save -n x --wait 10 /a", "option --wait: "},
		{"save -n x --cpu -1 /a", "option --cpu: "},
		{"--cpu many ls", "option --cpu: \"many\" is no number"},
		{"--wait 10 ls", "option --wait: "},
		{"save -n .x /a", "option --name: "},
		{"save -n x/../y /a", "option --name: "},
		{"save /a", "save needs a name"},
		{"save -n x", "save needs a PATH or a stream"},
		{"save -n x --stream nothing", "option --stream: "},
		{"save -n x --stream a=", "option --stream: "},
		{"save -n x --stream ../a=true", "a path in the saved tree has no .."},
		{"save -n x --stream /=true", "is no path of a file"},
		{"save -n x --stream a=true --stream /a=false", "two streams for \"/a\""},
		{"save -n x --from-command true", "--from-command needs --stdin-name"},
		{"save -n x --graft a /a", "option --graft: "},
		{"save -n x --strip --graft /a=/b /a", "exclude each other"},
		{"save -n x --strip --strip-path /a /a", "exclude each other"},
		{"init --chunker wave:13", "option --chunker: "},
		{"init --chunker rabin:13 --expect 1T", "exclude each other"},
		{"init a b", "init: argument \"b\" is one too many"},
		{"version now", "version: argument \"now\" is one too many"},
		{"help ls save", "help: argument \"save\" is one too many"},
		{"completion", "completion needs bash|zsh|fish\n"},
		{"completion bash zsh", "completion: argument \"zsh\" is one too many"},
		{"man", "man needs DIR\n"},
		{"cat-file", "cat-file needs NAME/SAVE/PATH\n"},
		{"cat-file a b c", "cat-file: argument \"b\" is one too many"},
		{"index", "index needs a PATH"},
		{"index --fake-valid -p /a", "need --update"},
		{"index --fake-valid --fake-invalid /a", "exclude each other"},
		{"index --clear -f x", "does not go with --indexfile"},
		{"index --exclude-rx (?=x) /a", "option --exclude-rx: "},
		{"index --exclude-rx-from /nonexistent /a", "option --exclude-rx-from: "},
		{"backup", "backup needs a PATH or a stream"},
		{"restore", "restore needs NAME/SAVE"},
		{"restore --overwrite perhaps a/latest", "option --overwrite: "},
		{"restore --map-user root a/latest", "option --map-user: "},
		{"restore --map-uid root=0 a/latest", "option --map-uid: "},
		{"restore --map-uid 1=4294967295 a/latest", "option --map-uid: "},
		{"restore --tar --json a/latest", "--tar writes to standard output"},
		{"restore --exclude-rx [ a/latest", "option --exclude-rx: "},
		{"completion tcsh", "no completion for the shell"},
		{"-r ftp://host/x ls", "repositories of the kind ftp:// are not supported"},
		{"-d ssh://host/x ls", "-d takes a directory"},
	} {
		var stderr strings.Builder
		code := run(context.Background(), append([]string{"kedge"}, strings.Fields(tt.line)...), world{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr,
			Env: func(k string) string { return map[string]string{"HOME": t.TempDir()}[k] }, FS: &fsx.FS{}})
		if code != exitUsage || !strings.Contains(stderr.String(), "kedge: error: ") || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s\nexit %d, want %d\n%swant %s", tt.line, code, exitUsage, &stderr, tt.want)
		}
	}
}
