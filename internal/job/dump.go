package job

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Prepared is a stream's command, ready to be run under bash with pipefail.
type Prepared struct {
	Command string
	As      *syscall.Credential // nil: whoever runs this
	Env     []string            // in addition
	secret  string
}

// Prepare makes the command of a stream ready: the one that dumps it, or the one that reads
// it again. Close removes what was written for it.
func (s *Stream) Prepare(fsys *fsx.FS, state string, again bool) (*Prepared, error) {
	p := new(Prepared)
	if s.RunAs != "" {
		u, err := user.Lookup(s.RunAs)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, err)
		}
		if p.As, err = credential(u); err != nil {
			return nil, err
		}
		p.Env = []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username}
	}
	if s.Secret != "" {
		if err := p.writeSecret(fsys, state, s); err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	var err error
	if p.Command, err = s.command(again, p.secret); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
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

// writeSecret writes the secret in the form in which the tool of the preset reads it, to a
// file that only the user can read who runs it.
func (p *Prepared) writeSecret(fsys *fsx.FS, state string, s *Stream) error {
	if err := private(fsys, s.Secret, 0o077); err != nil {
		return err
	}
	text, err := fsys.ReadFile(s.Secret, 64<<10)
	if err != nil {
		return err
	}
	form := "%s"
	if s.Preset != "" {
		kind, err := findPreset(s.Preset)
		if err != nil {
			return err
		}
		form = kind.secret
	}
	word := strings.TrimRight(string(text), "\n")
	if strings.ContainsAny(word, "\n\"\\") && strings.Contains(form, `"`) {
		return fmt.Errorf("%s: a password with quotes, backslashes or line feeds cannot be handed over", s.Secret)
	}
	if strings.HasPrefix(form, "*:") { // PostgreSQL's password file
		word = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(word)
	}
	dir := filepath.Join(state, "secrets")
	if err := fsys.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, s.Name+"-*")
	if err != nil {
		return err
	}
	p.secret = f.Name()
	_, err = f.WriteString(strings.Replace(form, "%s", word, 1))
	if err == nil && p.As != nil {
		err = f.Chown(int(p.As.Uid), int(p.As.Gid))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		p.Close()
	}
	return err
}

// Close removes the secret.
func (p *Prepared) Close() {
	if p.secret != "" {
		_ = os.Remove(p.secret)
	}
}
