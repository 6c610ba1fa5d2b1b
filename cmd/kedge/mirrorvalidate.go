package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorValidateHelp = `Validate finds out, by trying, whether a store keeps the promises that a mirror relies
on, and prints a line for each: yes or no. Then it prints a policy for the bucket, in
which the mirror may create and another key delete, and rules for its life cycle.

It writes small objects, and two of 5 MiB, below the PREFIX, and deletes them again if
the credentials are allowed to. The exit code is 6 if a promise is not kept that a
mirror needs.`

func (a *app) mirrorValidateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "validate s3://BUCKET/PREFIX",
		Short:   "find out whether a store is fit for mirrors",
		Long:    mirrorValidateHelp,
		Example: "  kedge mirror validate s3://bucket/backup\n  kedge mirror validate --endpoint https://s3.example.org s3://bucket/try",
		Args:    cobra.ExactArgs(1),
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := a.noGeneration("it reads none"); err != nil {
			return err
		}
		at, err := parseBucket(args[0])
		if err != nil {
			return err
		}
		s, err := a.objects(at)
		if err != nil {
			return err
		}
		if err := a.doc.begin(a, "mirror validate"); err != nil {
			return err
		}
		return a.validateStore(ctx, s, at)
	})
}

// validateStore tries a store.
func (a *app) validateStore(ctx context.Context, s s3sync.Objects, at bucketAt) error {
	var printed error
	var broken []string
	left, err := s3sync.Validate(ctx, s, at.prefix, func(p s3sync.Promise) {
		if p.Needed && !p.Kept {
			broken = append(broken, p.Name)
		}
		printed = errors.Join(printed, a.printPromise(p))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	if left > 0 {
		a.ui.line("%s below %s/validate-… could not be deleted", plural(int64(left), "object"), escape(at.String()))
	}
	policy, rules := s3sync.BucketPolicy(at.bucket, at.prefix), s3sync.BucketLifecycle(at.bucket, at.prefix)
	if a.common.json {
		a.doc.result = validateResult{len(broken) == 0, left, policy, rules}
	} else {
		printed = errors.Join(printed, a.print([]byte("\nA policy for the bucket (put in your account and users):\n\n"+escapeLines(policy)+
			"\nRules for its life cycle (let none of them expire versions: manifests name them):\n\n"+escapeLines(rules))))
	}
	if printed == nil && len(broken) > 0 {
		printed = &codedError{exitRefused, fmt.Errorf("%s is not fit for mirrors: %s", escape(at.String()), strings.Join(broken, ", "))}
	}
	return printed
}

// escapeLines escapes each line of a text.
func escapeLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(escapeText(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return b.String()
}

// printPromise prints a line about a promise.
func (a *app) printPromise(p s3sync.Promise) error {
	if a.common.json {
		return a.doc.entry(a, promiseEntry{p.Name, p.Means, p.Needed, p.Kept, p.Detail})
	}
	kept := "no "
	if p.Kept {
		kept = "yes"
	}
	line := fmt.Sprintf("%s  %-16s  %s", kept, p.Name, p.Means)
	if p.Detail != "" {
		line += " (" + p.Detail + ")"
	}
	if !p.Kept && p.Needed {
		line += "; a mirror needs it"
	}
	return a.print([]byte(escapeText(line) + "\n"))
}

// promiseEntry is a promise in JSON.
type promiseEntry struct {
	Name   string `json:"name"`
	Means  string `json:"means"`
	Needed bool   `json:"needed"`
	Kept   bool   `json:"kept"`
	Detail string `json:"detail,omitempty"`
}

// validateResult is the result of mirror validate in JSON.
type validateResult struct {
	Fit       bool   `json:"fit"`
	Left      int    `json:"left"`
	Policy    string `json:"policy"`
	Lifecycle string `json:"lifecycle"`
}
