package access

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		command string
		want    Request
	}{
		{"kedge server", Request{What: Server}},
		{"bup server", Request{What: Server}},
		{"sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'", Request{What: Server}}, // bup 0.33, word for word
		{"sh -c 'BUP_DEBUG=1 BUP_FORCE_TTY=3 BUP_TTY_WIDTH=80 bup server'", Request{What: Server}},
		{`sh -c "BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server"`, Request{What: Server}},
		{"git-upload-pack '/build'", Request{UploadPack, "/build"}},
		{"git upload-pack '~/build'", Request{UploadPack, "~/build"}},
		{`git-upload-pack '/it'\''s'\!'x'`, Request{UploadPack, "/it's!x"}}, // git 2.39, word for word
		{`git-upload-pack '/x'\'''`, Request{UploadPack, "/x'"}},
		{"git-upload-pack ''", Request{UploadPack, ""}},
		{"git-upload-pack '$(id) ; `x` \n'", Request{UploadPack, "$(id) ; `x` \n"}}, // no shell sees it
		{"git-upload-pack '--upload-pack=sh'", Request{UploadPack, "--upload-pack=sh"}},
	} {
		if got, err := ParseRequest(tt.command); got != tt.want || err != nil {
			t.Errorf("%s: %+v, %v", tt.command, got, err)
		}
	}
	for _, command := range refusedCommands() {
		var refused *repo.RefusedError
		got, err := ParseRequest(command)
		if got != (Request{}) || !errors.As(err, &refused) {
			t.Errorf("%.80q: %+v, %v", command, got, err)
		} else if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Errorf("%.80q: an answer that is too long or not printable", command)
		}
	}
}

func refusedCommands() []string {
	return []string{
		"", " ", "kedge", "kedge server ", " kedge server", "kedge  server", "kedge server\n", "kedge server\x00", "kedge server;sh", "kedge server --repo web --role append",
		"kedge server --root /", "kedge serve", "kedge gc", "kedge -d / server", "/bin/kedge server", "./kedge server", "KEDGE SERVER", "'kedge' server", "kedge server | sh", "kedge server $(id)",
		"bup server --help", "bup on--server", "bup", "bup save", "sh", "sh -c sh", "bash", "sh -c 'bup server'", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server; sh'",
		"sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=$(id) bup server'", "sh -c 'BUP_DEBUG= BUP_FORCE_TTY=0 bup server'", "sh -c 'BUP_DEBUG=-1 BUP_FORCE_TTY=0 bup server'",
		"sh -c 'BUP_DEBUG=99999999999 BUP_FORCE_TTY=0 bup server'", "sh -c 'BUP_FORCE_TTY=0 BUP_DEBUG=0 bup server'", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup save'",
		"sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server' x", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server\"", "sh -c 'BUP_DEBUG=0\nBUP_FORCE_TTY=0 bup server'", "sh -c '", "sh -c ''",
		"sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 LD_PRELOAD=x bup server'", "sh -c  'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server'", "sh -c BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server",
		"git-upload-pack", "git-upload-pack ", "git-upload-pack /build", "git-upload-pack '/build", "git-upload-pack '/build' x", "git-upload-pack '/build'x", `git-upload-pack "/build"`,
		"git-upload-pack --strict '/build'", "git-upload-pack  '/build'", "git-upload-pack '/a!b'", `git-upload-pack '/a'\x'b'`, `git-upload-pack '/a'\'`, "git-upload-pack '/a'$(id)", "git-upload-pack '/a\x00b'",
		"git-receive-pack '/build'", "git receive-pack '/build'", "git-upload-archive '/build'", "git-shell", "git -c x=y upload-pack '/build'", "git --exec-path=/tmp upload-pack '/build'",
		"scp -t /", "rsync --server", "internal-sftp", "/usr/lib/openssh/sftp-server", "borg serve", "restic", "cat /etc/passwd", "true", strings.Repeat("a", 1<<20), "git-upload-pack '" + strings.Repeat("a", 1<<20) + "'",
		"\x1b[2Jkedge server", "kedge\xffserver", "kedge\tserver",
	}
}

// Git says what it asks a server to run; it is taken, with any path.
func TestParseRequestOfGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	for _, path := range []string{"/build", "/it's", "/a b!c$d`e", "/~x", "/~/x"} {
		cmd := exec.Command("git", "ls-remote", "ssh://host"+path)
		cmd.Env = append(cmd.Environ(), `GIT_SSH_COMMAND=sh -c 'for w; do last=$w; done; printf "[%s]" "$last" >&2' sh`, "GIT_SSH_VARIANT=simple")
		out, _ := cmd.CombinedOutput()
		_, command, _ := strings.Cut(string(out), "[")
		command, _, _ = strings.Cut(command, "]")
		want := strings.TrimPrefix(path, "/")
		if want[0] != '~' {
			want = path
		}
		if got, err := ParseRequest(command); err != nil || got.Path != want {
			t.Errorf("%s: git asks for %q: %+v, %v\n%s", path, command, got, err, out)
		}
	}
}

// No command is taken for anything but one of the forms.
func FuzzRequest(f *testing.F) {
	for _, s := range append(refusedCommands(), "kedge server", "git-upload-pack '/build'", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 BUP_TTY_WIDTH=1 bup server'") {
		if len(s) < 1000 {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, command string) {
		got, err := ParseRequest(command)
		switch {
		case err != nil:
			if got != (Request{}) {
				t.Errorf("%q: an error, and %+v", command, got)
			}
		case got.What == Server:
			if !strings.HasSuffix(strings.TrimRight(command, `'"`), "server") || strings.ContainsAny(command, ";&|$`\n\x00") {
				t.Errorf("%q is taken", command)
			}
		case got.What == UploadPack:
			quoted := strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(got.Path)
			if rest, _ := strings.CutPrefix(strings.Replace(command, "git upload-pack", "git-upload-pack", 1), "git-upload-pack "); rest != "'"+quoted+"'" {
				t.Errorf("%q: %q", command, got.Path)
			}
		default:
			t.Errorf("%q: %+v", command, got)
		}
	})
}
