package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// tellTimeout is how long each of those who are told may take. A run is over then; that
// somebody does not answer changes nothing of it.
const tellTimeout = 20 * time.Second

// Select returns the jobs of these names, all for none.
func (c *Config) Select(names []string) ([]Job, error) {
	if len(names) == 0 {
		if len(c.Jobs) == 0 {
			return nil, errors.New("the config file has no job")
		}
		return c.Jobs, nil
	}
	var list []Job
	for _, name := range names {
		found := false
		for _, j := range c.Jobs {
			if j.Job == name {
				list, found = append(list, j), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no job %q in the config file", name)
		}
	}
	return list, nil
}

// Notice is what those are told whom the config names.
type Notice struct {
	Name    string // of what it is about, for the file of metrics
	Failed  bool   // the ping says that it failed
	Wrong   bool   // something is to be looked at: who asked for failures alone is told
	Subject string
	Text    string // for people
	JSON    any    // for programs
	Metrics []byte // in Prometheus' text format
}

// Tell says how a run ended to those whom the config names: a ping with the exit code and a
// summary, a webhook, mail, and a file for Prometheus' node exporter.
func Tell(ctx context.Context, w *World, j *Job, r *Report) error {
	err := j.Notify.Tell(ctx, w.FS, Notice{
		Name: r.Job, Failed: r.Exit != exitOK && r.Exit != exitPartial, Wrong: r.Exit != exitOK,
		Subject: r.subject(), Text: r.Text(), JSON: r, Metrics: r.metrics(),
	})
	if err != nil {
		return fmt.Errorf("telling how the run ended: %w", err)
	}
	return nil
}

// maxPing is how much of a text a ping carries: its tail.
const maxPing = 10_000

// Tell tells. A receiver that is nil, or names nobody, tells nobody.
func (n *Notify) Tell(ctx context.Context, fsys *fsx.FS, what Notice) error {
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*tellTimeout)
	defer cancel()
	var errs []error
	if n.Ping != "" {
		to := strings.TrimSuffix(n.Ping, "/")
		if what.Failed {
			to += "/fail"
		}
		text := what.Text
		if cut := len(text) - maxPing; cut > 0 {
			_, text, _ = strings.Cut(text[cut:], "\n")
		}
		errs = append(errs, post(ctx, to, "text/plain; charset=utf-8", []byte(text)))
	}
	if n.On == "always" || what.Wrong {
		if n.Webhook != "" {
			body, err := json.Marshal(what.JSON)
			errs = append(errs, err, post(ctx, n.Webhook, "application/json", body))
		}
		if len(n.Mail) > 0 {
			errs = append(errs, mail(ctx, n.Mail, what.Subject, what.Text))
		}
	}
	if n.Textfile != "" && what.Metrics != nil {
		errs = append(errs, fsys.Replace(filepath.Join(n.Textfile, "kedge_"+what.Name+".prom"), what.Metrics, 0o644))
	}
	return errors.Join(errs...)
}

// TellStart says that something begins, to what counts the time until it ends.
func (n *Notify) TellStart(ctx context.Context) error {
	if n == nil || n.Ping == "" {
		return nil
	}
	return post(ctx, strings.TrimSuffix(n.Ping, "/")+"/start", "text/plain; charset=utf-8", nil)
}

// post sends a body to a URL. Who knows the URL of a ping or a webhook can use it, and what is
// printed ends in logs and mails: errors name its host alone.
func post(ctx context.Context, to, kind string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return errors.New("an address of [notify] is no URL") // which the cause would quote
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("POST to %s: %w", req.URL.Host, withoutURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("POST to %s: %s", req.URL.Host, resp.Status)
	}
	return nil
}

// withoutURL returns the cause of an error of net/http without the URLs that it names, which may
// be those to which it was sent on.
func withoutURL(err error) error {
	var where *url.Error
	for errors.As(err, &where) {
		err = where.Err
	}
	return err
}

// mail sends a text through sendmail, which every mail system brings.
func mail(ctx context.Context, to []string, subject, text string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "To: %s\nSubject: kedge: %s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n%s",
		strings.Join(to, ", "), subject, text)
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sendmail", "-t", "-oi")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("sendmail: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (r *Report) subject() string {
	switch r.Exit {
	case exitOK:
		return r.Job + " is saved"
	case exitPartial:
		return r.Job + " is saved, but for what could not be read"
	}
	return r.Job + " failed"
}

// Text is the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: exit %d, %s, %.1f s\n", r.Job, r.Exit, r.Start.Format(time.RFC3339), r.Seconds)
	if r.Error != "" {
		fmt.Fprintf(&b, "error: %s\n", r.Error)
	}
	for _, p := range r.Parts {
		fmt.Fprintf(&b, "%s: exit %d, %d files, %d bytes read, %d stored, %d unreadable\n", p.Name, p.Exit, p.Files, p.BytesRead, p.Stored, p.Unreadable)
		if p.Error != "" {
			fmt.Fprintf(&b, "%s: error: %s\n", p.Name, p.Error)
		}
	}
	return b.String()
}

// metrics is the report in Prometheus' text format.
func (r *Report) metrics() []byte {
	var b bytes.Buffer
	gauge := func(name, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name) }
	gauge("kedge_run_exit_code", "Exit code of the last run of a job.")
	fmt.Fprintf(&b, "kedge_run_exit_code{job=%q} %d\n", r.Job, r.Exit)
	gauge("kedge_run_end_seconds", "When the last run of a job ended, since 1970.")
	fmt.Fprintf(&b, "kedge_run_end_seconds{job=%q} %d\n", r.Job, r.Start.Unix()+int64(r.Seconds))
	gauge("kedge_run_duration_seconds", "How long it took.")
	fmt.Fprintf(&b, "kedge_run_duration_seconds{job=%q} %g\n", r.Job, r.Seconds)
	for _, m := range []struct {
		name, help string
		value      func(*PartReport) int64
	}{
		{"kedge_save_exit_code", "Exit code of the last save of a part.", func(p *PartReport) int64 { return int64(p.Exit) }},
		{"kedge_save_bytes_read", "Bytes that it read.", func(p *PartReport) int64 { return p.BytesRead }},
		{"kedge_save_bytes_stored", "Bytes that it added to the repository.", func(p *PartReport) int64 { return p.Stored }},
		{"kedge_save_files", "Files in it.", func(p *PartReport) int64 { return p.Files }},
		{"kedge_save_unreadable", "Paths that could not be read.", func(p *PartReport) int64 { return p.Unreadable }},
	} {
		gauge(m.name, m.help)
		for i := range r.Parts {
			fmt.Fprintf(&b, "%s{job=%q,name=%q} %d\n", m.name, r.Job, r.Parts[i].Name, m.value(&r.Parts[i]))
		}
	}
	return b.Bytes()
}
