package job

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// The metrics of a status. Times are in seconds since 1970, so that Prometheus reckons ages
// by its own clock and an old file shows.
var (
	perName = []string{"repository", "name"}
	perRepo = []string{"repository"}

	statusTime     = prometheus.NewDesc("kedge_status_timestamp_seconds", "When the status was made.", nil, nil)
	statusProblems = prometheus.NewDesc("kedge_status_problems", "Problems of each kind.", []string{"kind"}, nil)
	statusProblem  = prometheus.NewDesc("kedge_problem", "1 for each kind of problem that a repository or name has now.", []string{"repository", "name", "kind"}, nil)

	repoBytes   = prometheus.NewDesc("kedge_repository_size_bytes", "Bytes of the packs of a repository.", perRepo, nil)
	repoPacks   = prometheus.NewDesc("kedge_repository_packs", "Packs of a repository.", perRepo, nil)
	repoObjects = prometheus.NewDesc("kedge_repository_objects", "Objects in a repository.", perRepo, nil)
	repoTask    = prometheus.NewDesc("kedge_task_done_timestamp_seconds", "When a task of the server was last done.", []string{"repository", "task"}, nil)
	repoRead    = prometheus.NewDesc("kedge_fsck_oldest_timestamp_seconds", "When the pack was read that was not read for longest.", perRepo, nil)

	nameLast       = prometheus.NewDesc("kedge_last_save_timestamp_seconds", "When the last save came in.", perName, nil)
	nameExpected   = prometheus.NewDesc("kedge_last_save_expected_seconds", "How old the last save may be; 0: for ever.", perName, nil)
	nameSize       = prometheus.NewDesc("kedge_last_save_size_bytes", "Bytes of the files in the last save.", perName, nil)
	nameNew        = prometheus.NewDesc("kedge_last_save_new_bytes", "Bytes that came in with the last save.", perName, nil)
	nameFiles      = prometheus.NewDesc("kedge_last_save_files", "Files in the last save.", perName, nil)
	nameUnreadable = prometheus.NewDesc("kedge_last_save_unreadable", "Paths that the last save could not read.", perName, nil)
	nameSeconds    = prometheus.NewDesc("kedge_last_save_duration_seconds", "How long the last save took.", perName, nil)
)

// Describe tells what metrics there are.
func (s *Status) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{statusTime, statusProblems, statusProblem, repoBytes, repoPacks, repoObjects, repoTask, repoRead,
		nameLast, nameExpected, nameSize, nameNew, nameFiles, nameUnreadable, nameSeconds} {
		ch <- d
	}
}

// Collect tells the metrics.
func (s *Status) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		for i, l := range labels {
			labels[i] = strings.ToValidUTF8(l, "�")
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(statusTime, unix(s.Time))
	kinds := make(map[ProblemKind]float64)
	for _, k := range problemKinds() {
		kinds[k] = 0
	}
	seen := make(map[Problem]bool)
	for _, p := range s.Problems {
		kinds[p.Kind]++
		if p.Text = ""; !seen[p] {
			seen[p] = true
			gauge(statusProblem, 1, p.Repo, p.Name, string(p.Kind))
		}
	}
	for k, n := range kinds {
		gauge(statusProblems, n, string(k))
	}
	for i := range s.Repos {
		r := &s.Repos[i]
		gauge(repoBytes, float64(r.Bytes), r.Repo)
		gauge(repoPacks, float64(r.Packs), r.Repo)
		gauge(repoObjects, float64(r.Objects), r.Repo)
		for task, at := range r.Tasks {
			gauge(repoTask, unix(at), r.Repo, task)
		}
		if !r.Read.IsZero() {
			gauge(repoRead, unix(r.Read), r.Repo)
		}
		for j := range r.Names {
			n := &r.Names[j]
			at := []string{r.Repo, n.Name}
			if !n.Last.IsZero() {
				gauge(nameLast, unix(n.Last), at...)
			}
			gauge(nameExpected, n.Every, at...)
			gauge(nameSize, float64(n.Size), at...)
			gauge(nameNew, float64(n.New), at...)
			gauge(nameFiles, float64(n.Files), at...)
			gauge(nameUnreadable, float64(n.Unreadable), at...)
			gauge(nameSeconds, n.Seconds, at...)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// Metrics returns the status in Prometheus' text format, for the directory of a node
// exporter.
func (s *Status) Metrics() ([]byte, error) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(s); err != nil {
		return nil, err
	}
	families, err := reg.Gather()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// MetricsHandler answers /metrics with what look finds at that moment. One request is
// answered at a time.
func MetricsHandler(look func(r *http.Request) (*Status, error)) http.Handler {
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case turn <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		defer func() { <-turn }()
		s, err := look(r)
		if err != nil {
			http.Error(w, "the status could not be made: the log says why", http.StatusInternalServerError)
			return
		}
		reg := prometheus.NewPedanticRegistry()
		if err := reg.Register(s); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
}
