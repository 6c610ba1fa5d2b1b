package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/repo"
)

const clientHelp = `Client says, on the server, which keys may do what with which repository. It edits
authorized_keys, which kedge serve and OpenSSH's sshd read in the same way.

    client add REPO KEYFILE --role ROLE   let a key in. KEYFILE is a public key, -
                                          standard input. A key that is let in
                                          already gets other rights by --replace only
    client list                           show the keys
    client remove WHAT                    remove a key: WHAT is its fingerprint, its
                                          comment, or the repository it is bound to

REPO is the name of a directory under the root, which need not exist; for read and
mirror also a glob. The roles are those of 'kedge help server'. Lines that kedge did not
write stay as they are.

Run by root, it acts as the owner of the file.`

const clientExample = `  kedge client add build build.pub --role append --names 'build-*' --quota 500G
  ssh build cat .ssh/kedge.pub | kedge client add build - --role append
  kedge client add '*' standby.pub --role mirror --from 192.0.2.7
  kedge client list
  kedge client remove build`

type clientOptions struct {
	grantFlags
	keys, from, expires string
	replace             bool
}

func (a *app) clientCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:       "client add|list|remove [ARGUMENT...] [OPTION...]",
		Short:     "say which keys a server lets in",
		Long:      clientHelp,
		Example:   clientExample,
		Args:      cobra.MinimumNArgs(1),
		ValidArgs: []string{"add", "list", "remove"},
	}
	var o clientOptions
	f := cmd.Flags()
	o.flags(f)
	f.StringVar(&o.from, "from", "", "the key may come from addresses that match `PATTERNS` only: 192.0.2.0/24,!192.0.2.9")
	f.StringVar(&o.expires, "expires", "", "the key is let in until `TIME`: YYYYMMDD[HHMM[SS]], with a Z behind it UTC")
	f.BoolVar(&o.replace, "replace", false, "with add: a key that is let in already gets these rights instead of those it has")
	f.StringVar(&o.root, "root", "", "repositories are in `DIR` (default: $KEDGE_ROOT, or the home)")
	f.StringVar(&o.keys, "authorized-keys", "", "the keys are in `FILE` (default: ROOT/.kedge/authorized_keys)")
	return a.command(cmd, func(_ context.Context, args []string) error {
		switch verb := args[0]; {
		case verb == "add" && len(args) == 3:
			return a.clientAdd(o, args[1], args[2])
		case verb == "list" && len(args) == 1:
			return a.clientList(o)
		case verb == "remove" && len(args) == 2:
			return a.clientRemove(o, args[1])
		}
		return usagef("it is client add REPO KEYFILE, client list or client remove WHAT")
	})
}

// authorizedKeys returns the file of keys of a server with a root of its own.
func authorizedKeys(root string) string { return filepath.Join(root, ".kedge", "authorized_keys") }

// keysFile returns the file of keys that is meant, and the --root that a line in it needs:
// none in the root's own file, whose reader knows where that is.
func (a *app) keysFile(o clientOptions) (file, root string, err error) {
	root, err = a.serverRoot(o.root)
	if err != nil || o.keys == "" {
		return authorizedKeys(root), "", err
	}
	if o.root == "" && a.Env("KEDGE_ROOT") == "" {
		root = "" // the home of the login, whose that is
	}
	file, err = filepath.Abs(o.keys)
	return file, root, err
}

func (a *app) clientAdd(o clientOptions, name, keyFile string) error {
	file, root, err := a.keysFile(o)
	if err != nil {
		return err
	}
	o.repos, o.root = []string{name}, root
	grant, err := access.ParseForced(o.words())
	if err != nil {
		return usagef("%v", err)
	}
	k, err := a.readPublicKey(keyFile)
	if err != nil {
		return err
	}
	k.Grant, k.From, k.Expires = grant, o.from, o.expires
	if err := a.editKeys(file, func(text []byte) ([]byte, error) {
		if err := presentKey(text, k); err != nil && !o.replace {
			return nil, withHint(err, "a key is bound to one line; --replace gives it the new rights, another client needs a key of its own")
		}
		text, err := access.AddKey(text, k)
		if err != nil {
			return nil, usagef("%v", err)
		}
		return text, nil
	}); err != nil {
		return err
	}
	if keys, bad := access.ParseKeys(k.Append(nil)); len(keys) == 1 && len(bad) == 0 {
		a.doc.result = clientJSONOf(&keys[0])
	}
	if !a.common.quiet {
		a.ui.line("%s %s %s, in %s", k.Fingerprint(), k.Grant.Role, escape(name), escape(file))
	}
	return nil
}

// presentKey returns an error if a key is let in already, unless it is by the same line.
func presentKey(text []byte, k access.Key) error {
	n := access.LineOf(text, k)
	if n == 0 {
		return nil
	}
	keys, bad := access.ParseKeys(text)
	for i := range keys {
		switch {
		case keys[i].Line != n:
		case bytes.Equal(keys[i].Append(nil), k.Append(nil)):
			return nil
		default:
			return fmt.Errorf("%s is let in already, by line %d: %s", k.Fingerprint(), n, keys[i].Grant.Command())
		}
	}
	for i := range bad {
		if bad[i].Line == n {
			return fmt.Errorf("%s stands there already, in %v", k.Fingerprint(), &bad[i])
		}
	}
	return nil
}

// readPublicKey reads the public key in a file, or from standard input.
func (a *app) readPublicKey(name string) (access.Key, error) {
	const most = 64 << 10
	var text []byte
	var err error
	if name == "-" {
		text, err = io.ReadAll(io.LimitReader(a.Stdin, most))
	} else {
		text, err = a.FS.ReadFile(name, most)
	}
	if err != nil {
		return access.Key{}, err
	}
	k, err := access.ParseKeyFile(text)
	if err != nil {
		return k, usagef("%s: %v", escape(name), err)
	}
	return k, nil
}

// editKeys changes a file of keys. Root does it as the owner of the file, or of the
// directory that it will be in: else a server that is not root could not read it, and a
// directory that is another's would be no safe place to write in.
func (a *app) editKeys(file string, change func([]byte) ([]byte, error)) error {
	if os.Getuid() == 0 {
		if err := becomeOwner(file); err != nil {
			return err
		}
	}
	return access.Edit(a.FS, file, change)
}

func becomeOwner(file string) error {
	for path := file; ; path = filepath.Dir(path) {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid == 0 {
			return nil
		}
		return errors.Join(syscall.Setgroups([]int{int(st.Gid)}), syscall.Setgid(int(st.Gid)), syscall.Setuid(int(st.Uid)))
	}
}

// readKeys returns the keys in a file, none if it is not there. What is wrong with
// it is told.
func (a *app) readKeys(file string) ([]access.Key, []byte, error) {
	text, err := a.FS.ReadFile(file, access.MaxKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	keys, bad := access.ParseKeys(text)
	for i := range bad {
		a.ui.warn(file, fmt.Errorf("%w: nobody is let in by it", &bad[i]))
	}
	return keys, text, nil
}

func (a *app) clientList(o clientOptions) error {
	file, _, err := a.keysFile(o)
	if err != nil {
		return err
	}
	keys, _, err := a.readKeys(file)
	if err != nil {
		return err
	}
	if a.common.json {
		if err := a.doc.begin(a, "client"); err != nil {
			return err
		}
		for i := range keys {
			if err := a.doc.entry(a, clientJSONOf(&keys[i])); err != nil {
				return err
			}
		}
		return nil
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := range keys {
		k := &keys[i]
		g := k.Grant
		repos, role := strings.Join(g.Repos, ","), g.Role.String()
		g.Repos, g.Root, g.Role = nil, "", access.Owner
		limits := g.Words()
		if k.From != "" {
			limits = append(limits, "--from", k.From)
		}
		if k.Expires != "" {
			limits = append(limits, "--expires", k.Expires)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", escape(repos), role, k.Fingerprint(), escape(k.Comment), escape(strings.Join(limits, " ")))
	}
	_ = w.Flush()
	for line := range strings.Lines(b.String()) {
		if err := a.print([]byte(strings.TrimRight(line, " \n") + "\n")); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) clientRemove(o clientOptions, what string) error {
	file, _, err := a.keysFile(o)
	if err != nil {
		return err
	}
	return a.editKeys(file, func(text []byte) ([]byte, error) {
		keys, _ := access.ParseKeys(text)
		var found []access.Key
		for _, k := range keys {
			print := k.Fingerprint()
			hit := what == print || what == strings.TrimPrefix(print, "SHA256:") || what == k.Comment || slices.Contains(k.Grant.Repos, what)
			if hit && !slices.ContainsFunc(found, func(f access.Key) bool { return f.Fingerprint() == print }) {
				found = append(found, k)
			}
		}
		switch len(found) {
		case 0:
			return nil, withHint(&repo.NotFoundError{What: "client", Name: what}, "'"+a.name+" client list' shows the keys")
		case 1:
		default:
			var hint []string
			for i := range found {
				hint = append(hint, fmt.Sprintf("%s %s %s", found[i].Fingerprint(), strings.Join(found[i].Grant.Repos, ","), found[i].Comment))
			}
			return nil, withHint(usagef("%s means %d keys; name one by its fingerprint", quote(what), len(found)), hint...)
		}
		a.doc.result = clientJSONOf(&found[0])
		if !a.common.quiet {
			a.ui.line("removed %s %s, from %s", found[0].Fingerprint(), escape(strings.Join(found[0].Grant.Repos, ",")), escape(file))
		}
		return access.RemoveKey(text, found[0]), nil
	})
}

// clientJSON is a key in JSON.
type clientJSON struct {
	Repos       []string `json:"repositories"`
	Role        string   `json:"role"`
	NoRead      bool     `json:"no_read,omitempty"`
	Names       []string `json:"names,omitempty"`
	Quota       int64    `json:"quota,omitempty"`
	Root        string   `json:"root,omitempty"`
	Fingerprint string   `json:"fingerprint"`
	Type        string   `json:"type"`
	Comment     string   `json:"comment,omitempty"`
	From        string   `json:"from,omitempty"`
	Expires     string   `json:"expires,omitempty"`
	Line        int      `json:"line,omitempty"`
}

func clientJSONOf(k *access.Key) clientJSON {
	g := &k.Grant
	return clientJSON{
		Repos: g.Repos, Role: g.Role.String(), NoRead: g.NoRead, Names: g.Names, Quota: g.Quota, Root: g.Root,
		Fingerprint: k.Fingerprint(), Type: k.Public.Type(), Comment: k.Comment, From: k.From, Expires: k.Expires, Line: k.Line,
	}
}
