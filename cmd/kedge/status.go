package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
)

const statusHelp = `Status shows, on the server, how the backups are: of each repository and name the
last save, its age, size, what was new, how long it took, and by how much it is larger
than those before; and what is to be looked at: names without a save for 26 hours or
what the config file expects, sizes that jump or collapse, sources that vanished, files
that could not be read, clocks that are wrong, repositories that fill up, and what the
server itself should have done. Clients need no agent: all of this stands in the
receipts.

The repositories are those in ROOT: --root, or the root of the [server] in the config
file; of one repository alone, with -d. With REPOs it is of these.

The exit code is 0 if there is nothing to look at, 3 if there is, 5 if something is
damaged, and 1 if a repository cannot be read. With -q only problems are printed.

--prometheus writes metrics for the textfile collector of a node exporter, --listen
serves them at http://ADDRESS/metrics until it is stopped. --notify tells those whom the
config file names (mail, webhook, ping).`

const statusExample = `  kedge status
  kedge status -q --notify
  kedge status --root /srv/backup build
  kedge status --prometheus /var/lib/prometheus/node-exporter/kedge.prom
  kedge status --listen 127.0.0.1:9555`

// statusOptions are those of status.
type statusOptions struct {
	root, config, prometheus, listen string
	notify                           bool
}

func (a *app) statusCommand() *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:     "status [--root ROOT] [--prometheus FILE] [--listen ADDRESS] [--notify] [REPO]...",
		Short:   "show how the backups of a server are",
		Long:    statusHelp,
		Example: statusExample,
	}
	f := cmd.Flags()
	configFlag(cmd, &o.config)
	f.StringVar(&o.root, "root", "", "the repositories in the directory `ROOT`")
	f.StringVar(&o.prometheus, "prometheus", "", "write metrics to `FILE`")
	f.StringVar(&o.listen, "listen", "", "serve metrics at `ADDRESS` until this is stopped")
	f.BoolVar(&o.notify, "notify", false, "tell those whom the config file names")
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.status(ctx, o, args) })
}

func (a *app) status(ctx context.Context, o statusOptions, repos []string) error {
	server, configured, err := a.watched(o)
	if err != nil {
		return err
	}
	look := func(ctx context.Context) (*job.Status, error) {
		w := job.Watch{FS: a.FS, Server: server, Tasks: configured, Now: a.now().Round(0)}
		if server.Root == "" {
			dir, err := a.home()
			if err != nil {
				return nil, err
			}
			return w.LookAt(ctx, dir)
		}
		return w.Look(ctx, repos)
	}
	if server.Root == "" && len(repos) > 0 {
		return usagef("-d is one repository, and %s is another", quote(repos[0]))
	}
	if o.listen != "" {
		return a.serveMetrics(ctx, o.listen, look)
	}
	s, err := look(ctx)
	if err != nil {
		return err
	}
	if o.prometheus != "" {
		text, err := s.Metrics()
		if err == nil {
			err = a.FS.Replace(o.prometheus, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if o.notify {
		if err := a.tellStatus(ctx, server, s); err != nil {
			return err
		}
	}
	a.doc.result = s
	if !a.common.json {
		text := problemText(s)
		if !a.common.quiet {
			text = statusText(s)
		}
		if err := a.print([]byte(text)); err != nil {
			return err
		}
	}
	return statusOutcome(s)
}

// watched finds out what is to be looked at, and whether the config of a server says what is
// expected there. Without a root it is the repository of this run.
func (a *app) watched(o statusOptions) (s *job.Server, configured bool, err error) {
	file := a.configFile(o.config)
	s = new(job.Server)
	if o.config != "" || a.exists(file) {
		c, err := a.loadConfig(o.config)
		if err != nil {
			return nil, false, err
		}
		if c.Server != nil {
			s, configured = c.Server, true
		}
	}
	switch {
	case o.root != "" && o.root != s.Root:
		// The rules hold for the names in it, but what was done when is that server's.
		s.Root, configured = o.root, false
	case o.root == "" && a.common.dir != "":
		s.Root, configured = "", false
	case s.Root == "" && a.Env("KEDGE_ROOT") != "":
		s.Root = a.Env("KEDGE_ROOT")
	}
	if a.common.remote != "" {
		return nil, false, usagef("status looks at the directories of a server: -r does not go with it")
	}
	s.Defaults()
	return s, configured, nil
}

// statusOutcome is how status ends.
func statusOutcome(s *job.Status) error {
	if len(s.Problems) == 0 {
		return nil
	}
	text := pluralOf(int64(len(s.Problems)), "problem", "problems")
	if s.Exit() == exitPartial {
		return &partialError{text}
	}
	return &codedError{s.Exit(), errors.New(text)}
}

// tellStatus tells those whom the config names.
func (a *app) tellStatus(ctx context.Context, server *job.Server, s *job.Status) error {
	n, err := s.Notice(statusText(s))
	if err != nil {
		return err
	}
	var to job.Notify
	if server.Notify != nil {
		to = *server.Notify
	}
	to.Ping = server.Status.Ping
	if err := to.Tell(ctx, a.FS, n); err != nil {
		return fmt.Errorf("telling the status: %w", err)
	}
	return nil
}

// serveMetrics answers /metrics until the context ends.
func (a *app) serveMetrics(ctx context.Context, at string, look func(context.Context) (*job.Status, error)) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", job.MetricsHandler(func(r *http.Request) (*job.Status, error) {
		s, err := look(r.Context())
		if err != nil {
			a.ui.line("%s", escapeText(err.Error()))
		}
		return s, err
	}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	a.ui.line("metrics are at http://%v/metrics", l.Addr())
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// problemText lists the problems.
func problemText(s *job.Status) string {
	var b strings.Builder
	for _, p := range s.Problems {
		b.WriteString("! " + escapeText(p.String()) + "\n")
	}
	return b.String()
}

// statusText shows a status: what is to be looked at, the names, and the repositories.
func statusText(s *job.Status) string {
	var b strings.Builder
	if len(s.Problems) > 0 {
		b.WriteString(problemText(s) + "\n")
	}
	late := make(map[[2]string]bool)
	for _, p := range s.Problems {
		late[[2]string{p.Repo, p.Name}] = true
	}
	rows := [][]string{{"", "REPOSITORY", "NAME", "LAST SAVE", "AGE", "SIZE", "TREND", "NEW", "FILES", "TOOK", "UNREADABLE"}}
	for i := range s.Repos {
		for j := range s.Repos[i].Names {
			n := &s.Repos[i].Names[j]
			rows = append(rows, nameRow(s.Repos[i].Repo, n, late[[2]string{s.Repos[i].Repo, n.Name}]))
		}
	}
	b.WriteString(table(rows, "<<<<>>>>>>>"))
	b.WriteByte('\n')
	rows = [][]string{{"", "REPOSITORY", "NAMES", "PACKS", "SIZE", "OBJECTS", "READ", "MIRRORED", "PRUNED", "COLLECTED"}}
	for i := range s.Repos {
		r := &s.Repos[i]
		row := []string{mark(late[[2]string{r.Repo, ""}]), escapeText(r.Repo), formatCount(int64(len(r.Names))), formatCount(int64(r.Packs)),
			formatSize(r.Bytes), formatCount(r.Objects), "-"}
		if !r.Read.IsZero() {
			row[6] = job.Span(s.Time.Sub(r.Read))
		}
		for _, task := range []string{job.TaskMirror, job.TaskPrune, job.TaskGC} {
			at, ok := r.Tasks[task]
			if ok {
				row = append(row, job.Span(s.Time.Sub(at)))
			} else {
				row = append(row, "-")
			}
		}
		rows = append(rows, row)
	}
	return b.String() + table(rows, "<<>>>>>>>>")
}

func mark(wrong bool) string {
	if wrong {
		return "!"
	}
	return ""
}

// nameRow is the row of a name.
func nameRow(repository string, n *job.NameStatus, wrong bool) []string {
	row := []string{mark(wrong), escapeText(repository), escapeText(n.Name), n.Last.Format("2006-01-02 15:04"),
		job.Span(time.Duration(n.Age * float64(time.Second))), formatSize(n.Size), fmt.Sprintf("%+.0f%%", n.Trend), formatSize(n.New),
		formatCount(n.Files), formatSeconds(time.Duration(n.Seconds * float64(time.Second))), "-"}
	if n.Unreadable > 0 {
		row[10] = formatCount(n.Unreadable)
	}
	if row[6] == "+0%" || row[6] == "-0%" {
		row[6] = "="
	}
	return row
}

// table aligns rows in columns: to the left (<) or to the right (>).
func table(rows [][]string, align string) string {
	widths := make([]int, len(align))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if widths[0] == 0 { // nothing is marked
		widths[0] = -2
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell)))
			switch {
			case widths[i] < 0:
				continue
			case align[i] == '<':
				line.WriteString(cell + pad + "  ")
			default:
				line.WriteString(pad + cell + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
