package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// versioned finds out whether what is behind a delete marker can be had.
func (v *validator) versioned(ctx context.Context) (string, error) {
	text := v.text()
	version, err := v.put(ctx, "version", text)
	if err != nil {
		return "", err
	}
	if version == "" || version == noVersion {
		return "", brokenf("the bucket keeps none")
	}
	if err := v.s.Delete(ctx, v.prefix+"version", ""); err != nil {
		if errors.As(err, new(*repo.RefusedError)) {
			return "not tried to the end: this key cannot delete anything", v.holds(ctx, "version", version, text)
		}
		return "", err
	}
	if err := v.holds(ctx, "version", version, text); errors.Is(err, fs.ErrNotExist) {
		return "", brokenf("it is gone")
	} else if err != nil {
		return "", err
	}
	s, ok := v.s.(Versioned)
	if !ok {
		return "", brokenf("versions are not listed")
	}
	found := false
	err = s.Versions(ctx, v.prefix+"version", "", func(o Object) error {
		found = found || o.Version == version
		return nil
	})
	if err == nil && !found {
		err = brokenf("the version is not listed")
	}
	return "", err
}

// lock finds out whether a locked object can be deleted. Only the effect counts: stores refuse
// in different words, and some do not refuse.
func (v *validator) lock(ctx context.Context) (string, error) {
	if deletes, err := v.deletes(ctx, "unlocked"); err != nil {
		return "", err
	} else if !deletes {
		return "", brokenf("not tried: this key cannot delete anything")
	}
	text := v.text()
	version, err := v.put(ctx, "locked", text)
	if err != nil {
		return "", err
	}
	o, err := v.s.Stat(ctx, v.prefix+"locked", version)
	if err != nil {
		return "", err
	}
	until := o.Modified.Add(lockTrial).Truncate(time.Second)
	if now := time.Now(); until.Before(now.Add(lockTrial / 2)) {
		until = now.Add(lockTrial).Truncate(time.Second)
	}
	if err := v.s.Retain(ctx, v.prefix+"locked", version, until); err != nil {
		return "", fmt.Errorf("nothing can be locked: %w", err)
	}
	refusal := v.s.Delete(ctx, v.prefix+"locked", version)
	if err := v.holds(ctx, "locked", version, text); errors.Is(err, fs.ErrNotExist) {
		return "", brokenf("it was locked, and is deleted")
	} else if err != nil {
		return "", err
	}
	v.until = until
	if refusal == nil {
		return "", brokenf("the store says that it deleted what is locked")
	}
	if o, err = v.s.Stat(ctx, v.prefix+"locked", version); err == nil && o.Until.IsZero() {
		return "it does not tell what is locked, or not to this key", nil
	}
	return "", err
}

// deletes finds out whether an object can be deleted, with its version.
func (v *validator) deletes(ctx context.Context, key string) (bool, error) {
	version, err := v.put(ctx, key, v.text())
	if err != nil {
		return false, err
	}
	refusal := v.s.Delete(ctx, v.prefix+key, version)
	_, err = v.s.Stat(ctx, v.prefix+key, version)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil && refusal == nil {
		err = brokenf("what was deleted is still there")
	}
	return false, err
}

func (v *validator) cannotDelete(ctx context.Context) (string, error) {
	deletes, err := v.deletes(ctx, "deleted")
	if err == nil && deletes {
		err = brokenf("it can; a prune's has to")
	}
	return "", err
}

// clean deletes what was created, once nothing is locked any more, and returns how much is left.
func (v *validator) clean(ctx context.Context) (left int, err error) {
	var list []Object
	if _, err := versions(ctx, v.s, v.prefix, "", func(o Object) error { list = append(list, o); return nil }); err != nil {
		return 0, err
	}
	if wait := time.Until(v.until); wait > 0 {
		t := time.NewTimer(wait + time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return len(list), context.Cause(ctx)
		}
	}
	for _, o := range list {
		if v.s.Delete(ctx, o.Key, o.Version) != nil {
			left++
		}
	}
	return left, ctx.Err()
}
