package s3sync

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Promise is something that a store may do or not, found out by trying.
type Promise struct {
	Name   string // one word or several with hyphens
	Means  string // what it is
	Needed bool   // a mirror relies on it
	Kept   bool
	Detail string // why it is not kept, or what was seen
}

// racers is how many create one key at once.
const racers = 16

// lockTrial is for how long an object is locked to see whether that holds.
const lockTrial = 4 * time.Second

// Validate finds out what a store promises below a prefix, by doing it: report is told of each
// promise. What it creates it deletes, if it may. left is how many objects it could not delete.
func Validate(ctx context.Context, s Objects, prefix string, report func(Promise)) (left int, err error) {
	if p, ok := s.(*Patient); ok {
		s = p.Objects // who tries again does not see what was answered first
	}
	v := &validator{s: s, prefix: prefix + "validate-" + strings.ToLower(rand.Text()) + "/"}
	for _, trial := range []struct {
		name, means string
		needed      bool
		try         func(ctx context.Context) (detail string, err error)
	}{
		{"read-after-write", "what was written is read at once", true, v.readAfterWrite},
		{"exclusive-create", "of 16 who create one key at once one succeeds, and nobody later", true, v.exclusive},
		{"list-after-write", "what was written is listed at once, in order, from any key on", true, v.listed},
		{"multipart", "parts become the object they should, and replace none", true, v.multipart},
		{"checksums", "wrong bytes are refused, and the SHA-256 is told later without reading", false, v.checksums},
		{"versions", "what was deleted is read by its version", false, v.versioned},
		{"object-lock", "what is locked cannot be deleted", false, v.lock},
		{"clock", "the store's clock is this machine's", false, v.clock},
		{"no-delete", "this key cannot delete, as a mirror's should not", false, v.cannotDelete},
	} {
		detail, err := trial.try(ctx)
		if ctx.Err() != nil {
			return 0, errors.Join(context.Cause(ctx), err)
		}
		var none *brokenPromise
		if err != nil && !errors.As(err, &none) && trial.needed && trial.name == "read-after-write" {
			return 0, err // it cannot be reached, or may not be written to
		}
		p := Promise{trial.name, trial.means, trial.needed, err == nil, detail}
		if err != nil {
			p.Detail = err.Error()
		}
		report(p)
	}
	return v.clean(ctx)
}

// brokenPromise says what a store did otherwise, in place of why a request failed.
type brokenPromise struct{ what string }

// Error says what it did.
func (e *brokenPromise) Error() string { return e.what }

func brokenf(format string, args ...any) error { return &brokenPromise{fmt.Sprintf(format, args...)} }

type validator struct {
	s      Objects
	prefix string
	until  time.Time // nothing is locked any more after that
}

// text returns bytes that no other call returns.
func (v *validator) text() []byte { return []byte("kedge tries the store: " + rand.Text() + "\n") }

func bodyFor(b []byte) Body {
	return Body{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), SHA256: SumOf(b)}
}

// put creates an object, and tries again as a store may ask for.
func (v *validator) put(ctx context.Context, key string, b []byte) (version string, err error) {
	p := Patient{Pause: 50 * time.Millisecond}
	err = p.again(ctx, "put", key, int64(len(b)), func(ctx context.Context) (err error) {
		version, err = v.s.Put(ctx, v.prefix+key, bodyFor(b))
		return err
	})
	return version, err
}

// holds fails if an object has other bytes.
func (v *validator) holds(ctx context.Context, key, version string, want []byte) error {
	got, err := ReadAll(ctx, v.s, v.prefix+key, version, len(want)+1<<20)
	if err == nil && !bytes.Equal(got, want) {
		err = brokenf("%s holds other bytes than were written", key)
	}
	return err
}

func (v *validator) readAfterWrite(ctx context.Context) (string, error) {
	const objects = 20
	for i := range objects {
		key, text := fmt.Sprint("read/", i), v.text()
		if _, err := v.put(ctx, key, text); err != nil {
			return "", err
		}
		if err := v.holds(ctx, key, "", text); errors.Is(err, fs.ErrNotExist) {
			return "", brokenf("object %d was written and is not there", i)
		} else if err != nil {
			return "", err
		}
		o, err := v.s.Stat(ctx, v.prefix+key, "")
		if err != nil || o.Size != int64(len(text)) {
			return "", brokenf("object %d is described as %d bytes, %v", i, o.Size, err)
		}
	}
	return fmt.Sprint(objects, " objects"), nil
}

func (v *validator) exclusive(ctx context.Context) (string, error) {
	const rounds = 3
	for round := range rounds {
		key := fmt.Sprint("race/", round)
		texts, won := make([][]byte, racers), make([]bool, racers)
		var wg sync.WaitGroup
		for i := range racers {
			texts[i] = v.text()
			wg.Go(func() {
				_, err := v.s.Put(ctx, v.prefix+key, bodyFor(texts[i]))
				won[i] = err == nil
			})
		}
		wg.Wait()
		winner, winners := slices.Index(won, true), 0
		for _, w := range won {
			if w {
				winners++
			}
		}
		if winners != 1 {
			return "", brokenf("%d of %d succeeded", winners, racers)
		}
		if err := v.holds(ctx, key, "", texts[winner]); err != nil {
			return "", fmt.Errorf("after the race: %w", err)
		}
		if _, err := v.put(ctx, key, v.text()); err == nil {
			return "", brokenf("another one overwrote it later")
		} else if !errors.Is(err, ErrExists) {
			return "", err
		}
		if err := v.holds(ctx, key, "", texts[winner]); err != nil {
			return "", fmt.Errorf("after it was refused: %w", err)
		}
	}
	return fmt.Sprintf("%d rounds of %d", rounds, racers), nil
}

func (v *validator) listed(ctx context.Context) (string, error) {
	const objects = 40
	var want []string
	for i := range uint64(objects) {
		want = append(want, "list/"+manifestKey("", i*i*i))
	}
	slices.Sort(want)
	for n, i := range mrand.Perm(objects) {
		if _, err := v.put(ctx, want[i], v.text()); err != nil {
			return "", err
		}
		seen := 0
		if err := v.s.List(ctx, v.prefix+"list/", "", func(Object) error { seen++; return nil }); err != nil {
			return "", err
		}
		if seen != n+1 {
			return "", brokenf("%d objects were written, %d are listed", n+1, seen)
		}
	}
	for _, from := range []int{0, 1, objects / 2, objects} {
		after := ""
		if from > 0 {
			after = v.prefix + want[from-1]
		}
		var got []string
		err := v.s.List(ctx, v.prefix+"list/", after, func(o Object) error {
			got = append(got, strings.TrimPrefix(o.Key, v.prefix))
			return nil
		})
		if err != nil {
			return "", err
		}
		if !slices.Equal(got, want[from:]) {
			return "", brokenf("after key %d the list is in another order, or of other keys", from)
		}
	}
	return fmt.Sprint(objects, " objects"), nil
}

func (v *validator) multipart(ctx context.Context) (string, error) {
	s, ok := partedOf(v.s)
	if !ok {
		return "", brokenf("it takes no parts")
	}
	parts := [][]byte{bytes.Repeat(v.text(), 5<<20/32), v.text()}
	upload := func(key string) error {
		id, err := s.Begin(ctx, v.prefix+key)
		if err != nil {
			return err
		}
		list := make([]Part, len(parts))
		for i, b := range parts {
			if list[i], err = s.PutPart(ctx, v.prefix+key, id, i+1, bodyFor(b)); err != nil {
				return errors.Join(err, s.Abort(ctx, v.prefix+key, id))
			}
		}
		if _, err := s.Complete(ctx, v.prefix+key, id, list); err != nil {
			return errors.Join(err, s.Abort(ctx, v.prefix+key, id))
		}
		return nil
	}
	if err := upload("parts/new"); err != nil {
		return "", err
	}
	if err := v.holds(ctx, "parts/new", "", slices.Concat(parts...)); err != nil {
		return "", err
	}
	text := v.text()
	if _, err := v.put(ctx, "parts/taken", text); err != nil {
		return "", err
	}
	if err := upload("parts/taken"); err == nil {
		return "", brokenf("an object was replaced by parts in spite of If-None-Match")
	} else if !errors.Is(err, ErrExists) {
		return "", err
	}
	return "", v.holds(ctx, "parts/taken", "", text)
}

func (v *validator) checksums(ctx context.Context) (string, error) {
	text := v.text()
	wrong := bodyFor(text)
	wrong.ReaderAt = bytes.NewReader(v.text())
	if _, err := v.s.Put(ctx, v.prefix+"sums/wrong", wrong); err == nil {
		return "", brokenf("wrong bytes were taken")
	}
	if _, err := v.put(ctx, "sums/right", text); err != nil {
		return "", err
	}
	o, err := v.s.Stat(ctx, v.prefix+"sums/right", "")
	if err == nil && o.SHA256 != SumOf(text) {
		err = brokenf("the SHA-256 is not told: what is sent is read again, and mirror verify needs --read-data")
	}
	return "", err
}

func (v *validator) clock(ctx context.Context) (string, error) {
	before := time.Now()
	if _, err := v.put(ctx, "clock", v.text()); err != nil {
		return "", err
	}
	o, err := v.s.Stat(ctx, v.prefix+"clock", "")
	if err != nil {
		return "", err
	}
	const most = 5 * time.Minute
	off := o.Modified.Sub(before)
	if math.Abs(float64(off)) > float64(most) {
		return "", brokenf("it is %v ahead", off.Round(time.Second))
	}
	return fmt.Sprintf("%d s apart", int(math.Abs(off.Seconds()))), nil
}
