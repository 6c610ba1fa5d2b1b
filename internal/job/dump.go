package job

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// secretFile is where a command finds the secret: it inherits a file that is in no directory,
// so that whatever is killed, nothing is left of it. Commands of the config find its name in
// KEDGE_PASSWORD_FILE.
const secretFile = "/proc/self/fd/3"

// Prepared is a stream's command, ready to be run under bash with pipefail.
type Prepared struct {
	Command string
	As      *syscall.Credential // nil: whoever runs this
	Env     []string            // in addition
	Files   []*os.File          // to be inherited, from descriptor 3 on
	Ends    string              // what the output has to end with, whatever the exit code says
}

// Prepare makes the command ready that dumps a stream. Close gives up what it needs.
func (s *Stream) Prepare(fsys *fsx.FS) (*Prepared, error) {
	p, err := s.prepare(fsys)
	if err != nil {
		return nil, err
	}
	if p.Command, err = s.command(false, p.secret()); err != nil {
		p.Close()
		return nil, err
	}
	if kind, err := findPreset(s.Preset); err == nil && s.Command == "" {
		p.Ends = kind.ends
	}
	return p, nil
}

// prepare makes ready what all commands of a stream need.
func (s *Stream) prepare(fsys *fsx.FS) (*Prepared, error) {
	p := new(Prepared)
	if s.RunAs != "" {
		u, err := user.Lookup(s.RunAs)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, err)
		}
		if p.As, err = credential(u); err != nil {
			return nil, err
		}
		if int(p.As.Uid) == os.Geteuid() { // who is that user already need not be able to become anybody
			p.As = nil
		}
		p.Env = []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username}
	}
	if s.Secret == "" {
		return p, nil
	}
	word, err := s.readSecret(fsys)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.Name, err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if p.As != nil {
		uid, gid = int(p.As.Uid), int(p.As.Gid)
	}
	f, err := fsx.MemFile("kedge-"+s.Name, word, uid, gid)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.Name, err)
	}
	p.Files = []*os.File{f}
	p.Env = append(p.Env, "KEDGE_PASSWORD_FILE="+secretFile)
	return p, nil
}

// Environ returns the environment of the command, of that of this program. Credentials of a
// store, with which a run may save, are none of the business of the user that a dump runs as.
func (p *Prepared) Environ(env []string) []string {
	if p.As != nil {
		env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	}
	return slices.Concat(env, p.Env)
}

// secret returns where the command finds the secret, "" if there is none.
func (p *Prepared) secret() string {
	if len(p.Files) == 0 {
		return ""
	}
	return secretFile
}

// Close gives up what was made ready.
func (p *Prepared) Close() {
	for _, f := range p.Files {
		_ = f.Close() // nobody wrote to it
	}
}

// credential returns a user's ids.
func credential(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, err := u.GroupIds()
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(id))
		}
	}
	return c, err
}

// readSecret returns the secret in the form in which the tool of the preset reads it.
func (s *Stream) readSecret(fsys *fsx.FS) ([]byte, error) {
	if err := private(fsys, s.Secret, 0o077); err != nil {
		return nil, err
	}
	text, err := fsys.ReadFile(s.Secret, 64<<10)
	if err != nil {
		return nil, err
	}
	form := "%s"
	if s.Preset != "" {
		kind, err := findPreset(s.Preset)
		if err != nil {
			return nil, err
		}
		form = kind.secret
	}
	word := strings.TrimRight(string(text), "\n")
	switch {
	case word == "":
		return nil, fmt.Errorf("%s: it holds no password", s.Secret)
	case strings.Contains(form, `"`) && strings.ContainsAny(word, "\n\"\\"):
		return nil, fmt.Errorf("%s: a password with quotes, backslashes or line feeds cannot be handed over", s.Secret)
	case form == pgSecret:
		if strings.Contains(word, "\n") {
			return nil, fmt.Errorf("%s: a password with line feeds cannot be handed over", s.Secret)
		}
		word = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(word)
	}
	return []byte(strings.Replace(form, "%s", word, 1)), nil
}
