package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// identity returns what opens encrypted mirrors; nil: nothing was given that does.
func (a *app) identity() (*s3sync.Identity, error) {
	file := a.common.store.identity
	if file == "" {
		return nil, nil
	}
	text, err := a.FS.ReadFile(file, 1<<20)
	if err != nil {
		return nil, err
	}
	id, err := s3sync.ParseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote(file), err)
	}
	return id, nil
}

// recipients returns to whom a mirror is encrypted; nil: it is not.
func (a *app) recipients(o mirrorOptions) (*s3sync.Recipients, error) {
	text := strings.Join(o.encryptTo, "\n")
	for _, file := range o.recipients {
		more, err := a.FS.ReadFile(file, 1<<20)
		if err != nil {
			return nil, err
		}
		text += "\n" + string(more)
	}
	if len(o.encryptTo)+len(o.recipients) == 0 {
		return nil, nil
	}
	to, err := s3sync.ParseRecipients([]byte(text))
	if err != nil {
		return nil, withHint(&codedError{exitUsage, fmt.Errorf("--encrypt-to: %w", err)}, "a recipient is a public key that age-keygen printed, such as age1…")
	}
	return to, nil
}

// split returns the prefix of several mirrors, and the name of one of them.
func (b bucketAt) split() (parent, name string) {
	return path.Split(strings.TrimSuffix(b.prefix, "/"))
}

// seal makes a bucket one that a repository is encrypted to, where nobody sees its name, and
// returns the name.
func (a *app) seal(ctx context.Context, b *s3sync.Bucket, j mirrorJob, to *s3sync.Recipients) (string, error) {
	b.Recipients = to
	parent, name := j.to.split()
	if to == nil || strings.HasPrefix(name, ".") {
		return "", nil
	}
	if name == "" {
		return "", usagef("%s: the last word of the address is the name of the repository, which an encrypted mirror has to have", escape(j.to.String()))
	}
	p, err := repo.OpenDir(ctx, j.dir, repo.DirOptions{FS: a.FS, ReadOnly: true})
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	b.Prefix = parent + s3sync.PlaceOf(parent, name, p.Config().ID) + "/"
	return name, nil
}

// alike refuses to encrypt where others are not encrypted, and the other way round.
func (m *mirrorRun) alike(ctx context.Context) error {
	if m.unmixed {
		return nil
	}
	root := m.o.root != ""
	prefix := m.at.prefix
	if !root {
		prefix, _ = m.at.split()
	}
	err := s3sync.Unmixed(ctx, m.objects, prefix, m.to != nil)
	if err == nil && !root && m.to == nil { // the address may be that of several
		err = s3sync.Unmixed(ctx, m.objects, m.at.prefix, false)
	}
	if m.unmixed = err == nil; !errors.As(err, new(*s3sync.MixedError)) {
		return err
	}
	err = &codedError{exitRefused, fmt.Errorf("%s: %w", escape(m.at.String()), err)}
	if m.to == nil {
		return withHint(err, "--encrypt-to RECIPIENT encrypts; what is not to be encrypted needs a prefix of its own")
	}
	return withHint(err, "what is encrypted needs a prefix of its own")
}

// resolve returns where the mirror of an address stands: encrypted ones are found by the
// identity, which tells their names.
func (a *app) resolve(ctx context.Context, s s3sync.Objects, at bucketAt) (bucketAt, error) {
	id, err := a.identity()
	if id == nil || err != nil {
		return at, err
	}
	parent, name := at.split()
	if name == "" || strings.HasPrefix(name, ".") {
		return at, nil
	}
	dir, err := s3sync.FindPlace(ctx, s, parent, name, id)
	if errors.As(err, new(*repo.NotFoundError)) {
		return at, nil // who reads it says so, and what is near
	}
	return bucketAt{at.bucket, parent + dir + "/"}, err
}

// locked says of what is encrypted how to read it.
func (a *app) locked(at bucketAt, err error) error {
	if !errors.As(err, new(*s3sync.LockedError)) {
		return err
	}
	return withHint(&codedError{exitUsage, fmt.Errorf("%s is encrypted", escape(at.String()))},
		"--identity FILE reads it, where FILE has the private key of one of those it is encrypted to")
}

// sealedThere returns why nothing is written to an address, if that is because what is there is
// encrypted. failed is what writing failed for already.
func (a *app) sealedThere(ctx context.Context, at bucketAt, failed error) error {
	var none *repo.NotFoundError
	if failed != nil && !errors.As(failed, new(*s3sync.SealedError)) && !errors.As(failed, &none) {
		return nil
	}
	s, err := a.objects(at)
	if err != nil {
		return err
	}
	parent, _ := at.split()
	for _, prefix := range []string{parent, at.prefix} {
		var mixed *s3sync.MixedError
		if err := s3sync.Unmixed(ctx, s, prefix, false); errors.As(err, &mixed) {
			failed = mixed
		}
	}
	if failed == nil || none != nil && !errors.As(failed, new(*s3sync.MixedError)) {
		return nil
	}
	return withHint(&codedError{exitRefused, fmt.Errorf("%s: %w", escape(at.String()), &s3sync.SealedError{Name: "the mirror"})},
		"write to the server, and mirror that; what is to be written straight to a bucket can be encrypted by the store (SSE-KMS)")
}
