package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorStatusHelp = `Status lists the generations of a mirror, the newest first, with the time since each was
made, what it holds, the key that signed it, and when 'kedge mirror verify' last found it
to be as it should, if that ran here. A summary follows: how old the newest generation is
that a mirror made, what all of them hold together, and the oldest that was not verified.
A manifest that is not the one whose hash the next one names was replaced: that is told.`

func (a *app) mirrorStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status s3://BUCKET/PREFIX/REPO",
		Short:   "list the generations of a mirror",
		Long:    mirrorStatusHelp,
		Example: "  kedge mirror status s3://bucket/backup/build",
		Args:    cobra.ExactArgs(1),
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := a.noGeneration("it lists all of them"); err != nil {
			return err
		}
		b, at, err := a.mirrorAt(ctx, args[0])
		if err != nil {
			return err
		}
		if err := a.doc.begin(a, "mirror status"); err != nil {
			return err
		}
		verified, err := a.verifiedTimes(at)
		if err != nil {
			return err
		}
		n := 0
		var sum statusResult
		told := make(map[string]bool)
		err = b.Generations(ctx, func(l s3sync.Listed) error {
			n++
			for _, err := range l.Warnings { // that of a base comes with each that is based on it
				if !told[err.Error()] {
					a.warnOf(at, []error{err})
				}
				told[err.Error()] = true
			}
			if l.Broken != nil {
				a.warnOf(at, []error{l.Broken})
			}
			at := verified[verifiedKey(l.N, l.Sum)]
			sum.add(l, at, a.now())
			return a.listGeneration(l, at)
		})
		if err == nil && n == 0 {
			_, err = a.generation(ctx, b, at)
		}
		if err != nil {
			return err
		}
		return a.printStatus(sum)
	})
}

// statusResult is the summary of mirror status in JSON.
type statusResult struct {
	Lag         int64  `json:"lag_seconds,omitempty"`
	Newest      uint64 `json:"newest,omitempty"`
	Generations int    `json:"generations"`
	Unusable    int    `json:"unusable"`
	Broken      int    `json:"broken"`
	Bytes       int64  `json:"bytes"`
	// Unverified is the oldest generation that was not verified.
	Unverified     uint64 `json:"oldest_unverified,omitempty"`
	UnverifiedTime string `json:"oldest_unverified_time,omitempty"`
}

// add counts a generation; they come newest first.
func (s *statusResult) add(l s3sync.Listed, verified, now time.Time) {
	if l.Pruned {
		s.Bytes += l.Own
		return
	}
	if l.Err != nil {
		s.Unusable++
		return
	}
	if l.Broken != nil {
		s.Broken++
	}
	s.Bytes += l.Own
	if l.Kind == s3sync.Prune { // no mirror made it: it is the one before it again
		return
	}
	if s.Generations++; s.Generations == 1 {
		s.Newest, s.Lag = l.N, int64(now.Sub(l.Time).Seconds())
	}
	if verified.IsZero() {
		s.Unverified, s.UnverifiedTime = l.N, l.Time.UTC().Format(time.RFC3339)
	}
}

func (a *app) printStatus(s statusResult) error {
	if a.common.json {
		a.doc.result = s
		return nil
	}
	lag := time.Duration(s.Lag) * time.Second
	line := fmt.Sprintf("%s, %s in all; the newest is %d, %s old", plural(int64(s.Generations), "generation"), formatSize(s.Bytes), s.Newest, lag)
	if s.Generations == 0 {
		line = "no generation of a mirror"
	}
	if s.Unusable > 0 {
		line += fmt.Sprintf("; %d unusable", s.Unusable)
	}
	if s.Broken > 0 {
		line += fmt.Sprintf("; %s not the one that the next was made on top of", plural(int64(s.Broken), "generation"))
	}
	switch {
	case s.Unverified != 0:
		line += fmt.Sprintf("; the oldest not verified is %d, of %s", s.Unverified, s.UnverifiedTime)
	case s.Generations > 0:
		line += "; all verified"
	}
	return a.print([]byte(line + "\n"))
}

// listGeneration prints a line about a generation.
func (a *app) listGeneration(l s3sync.Listed, verified time.Time) error {
	at := ""
	if !verified.IsZero() {
		at = verified.UTC().Format(time.RFC3339)
	}
	if a.common.json {
		j := statusEntry{
			Generation: l.N, Kind: string(l.Kind), Files: l.Files, Bytes: l.Bytes, BytesOwn: l.Own, Refs: l.Refs, Signer: l.Signer, Verified: at,
			Pruned: l.Pruned,
		}
		if l.Err != nil {
			j.Error = l.Err.Error()
		} else {
			j.Time = l.Time.UTC().Format(time.RFC3339)
		}
		if l.Broken != nil {
			j.Broken = l.Broken.Error()
		}
		return a.doc.entry(a, j)
	}
	if l.Err != nil {
		what := "unusable"
		if l.Pruned {
			what = "pruned"
		}
		return a.print([]byte(escapeText(fmt.Sprintf("%d  %s: %v", l.N, what, l.Err)) + "\n"))
	}
	signer := l.Signer
	if signer == "" {
		signer = "not signed"
	}
	if at != "" {
		at = "  verified " + at
	}
	if l.Pruned {
		at += "  pruned"
	}
	age := a.now().Sub(l.Time).Round(time.Minute)
	refs := plural(int64(l.Refs), "ref")
	if l.Locked {
		refs = "refs sealed"
	}
	return a.print([]byte(escapeText(fmt.Sprintf("%d  %s  %s ago  %-5s %s, %s, %s  %s%s", l.N, l.Time.UTC().Format(time.RFC3339), age,
		l.Kind, refs, plural(int64(l.Files), "file"), formatSize(l.Bytes), signer, at)) + "\n"))
}

// statusEntry is a generation in JSON.
type statusEntry struct {
	Generation uint64 `json:"generation"`
	Time       string `json:"time,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Files      int    `json:"files,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	BytesOwn   int64  `json:"bytes_own,omitempty"`
	Refs       int    `json:"refs,omitempty"`
	Signer     string `json:"signer,omitempty"`
	Verified   string `json:"verified,omitempty"`
	Error      string `json:"error,omitempty"`
	Broken     string `json:"broken,omitempty"`
	Pruned     bool   `json:"pruned,omitempty"`
}

// When a generation was verified stands in the cache directory of who did it, in a file for
// each mirror, one line for each time: the generation, the SHA-256 of its manifest, when. It
// is nobody else's word; and if it is lost, all that happens is that verify is due.
const (
	verifiedHead = "kedge-verified 1\n"
	maxVerified  = 1 << 20 // bytes; older half is forgotten
)

func (a *app) verifiedFile(at bucketAt) string { return a.mirrorCache(at) + "-verified" }

func verifiedKey(n uint64, sum s3sync.Sum) string { return fmt.Sprint(n, " ", sum) }

// verifiedTimes returns when each generation was verified last.
func (a *app) verifiedTimes(at bucketAt) (map[string]time.Time, error) {
	text, err := a.FS.ReadFile(a.verifiedFile(at), 2*maxVerified)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	times := make(map[string]time.Time)
	rest, ok := strings.CutPrefix(string(text), verifiedHead)
	for line := range strings.Lines(rest) {
		i := strings.LastIndexByte(line, ' ')
		if t, err := time.Parse(time.RFC3339+"\n", line[i+1:]); ok && i > 0 && err == nil {
			times[line[:i]] = t
		}
	}
	return times, nil
}

// noteVerified notes that a generation is as it should be.
func (a *app) noteVerified(at bucketAt, g *s3sync.Generation) error {
	name := a.verifiedFile(at)
	text, err := a.FS.ReadFile(name, 2*maxVerified)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rest, _ := strings.CutPrefix(string(text), verifiedHead)
	if len(rest) > maxVerified {
		_, rest, _ = strings.Cut(rest[len(rest)/2:], "\n")
	}
	rest += verifiedKey(g.N, g.Sum) + " " + a.now().UTC().Format(time.RFC3339) + "\n"
	if err := a.FS.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return a.FS.Replace(name, []byte(verifiedHead+rest), 0o600)
}
