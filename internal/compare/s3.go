package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// With -s3 the tools are kedge mirror, s3cmd sync and rclone sync, each of which sends the
// directory of one repository to a prefix of its own of an S3 server on this machine. The
// steps are: the first run, a run with nothing changed, a run after the second day's save, and one
// after a file changed that kept its size and its times. Within a round the tools take turns
// step by step, so all of them meet the same machine.

// copier is a tool that copies a repository to a bucket.
type copier struct {
	name, exe string
	env       []string
	run       func(repo, prefix string) []string
	// holds returns where in the bucket the config file of the repository is, once it is
	// there as it is.
	holds func(prefix string) string
}

// bucketServer is an S3 server with a bucket named backup.
type bucketServer struct {
	url, data string
	cmd       *exec.Cmd
}

func startBucket(dir string) (*bucketServer, error) {
	exe, err := exec.LookPath("versitygw")
	if err != nil {
		if exe, err = filepath.Abs("bin/tools/versitygw"); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	b := &bucketServer{url: "http://" + at, data: filepath.Join(dir, "s3")}
	for _, d := range []string{filepath.Join(b.data, "backup"), filepath.Join(dir, "iam")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	b.cmd = exec.Command(exe, "--port", at, "--health", "/healthz", "--iam-dir", filepath.Join(dir, "iam"), "--quiet", "posix", b.data)
	b.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=kedge", "ROOT_SECRET_KEY=kedgesecret")
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make servers)", err)
	}
	for range 200 {
		time.Sleep(25 * time.Millisecond)
		if r, err := http.Get(b.url + "/healthz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return b, nil
			}
		}
	}
	b.stop()
	return nil, fmt.Errorf("%s does not answer", exe)
}

func (b *bucketServer) stop() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

// copiers returns the tools, set up for a server.
func copiers(kedge, dir string, b *bucketServer) ([]copier, error) {
	host := strings.TrimPrefix(b.url, "http://")
	config := filepath.Join(dir, "s3cfg")
	text := fmt.Sprintf("[default]\naccess_key = kedge\nsecret_key = kedgesecret\nhost_base = %s\nhost_bucket = %s\nuse_https = False\n", host, host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	keys := []string{"AWS_ACCESS_KEY_ID=kedge", "AWS_SECRET_ACCESS_KEY=kedgesecret", "AWS_REGION=us-east-1"}
	asIs := func(prefix string) string { return prefix + "/config" }
	return slices.DeleteFunc([]copier{
		{"kedge", kedge, append(keys, "AWS_ENDPOINT_URL="+b.url), func(repo, prefix string) []string {
			return []string{kedge, "mirror", "-q", "-d", repo, "s3://backup/" + prefix}
		}, nil},
		{"s3cmd", "s3cmd", nil, func(repo, prefix string) []string {
			return []string{"s3cmd", "-c", config, "-q", "sync", repo + "/", "s3://backup/" + prefix + "/"}
		}, asIs},
		// With a bundle of certificates in the environment rclone 1.60 does not start.
		{"rclone", "rclone", append([]string{"AWS_CA_BUNDLE="}, keys...), func(repo, prefix string) []string {
			return []string{"rclone", "--config", filepath.Join(dir, "none"), "-q", "sync", repo,
				":s3,provider=Other,env_auth=true,endpoint='" + b.url + "':backup/" + prefix}
		}, asIs},
	}, func(c copier) bool {
		_, err := exec.LookPath(c.exe)
		return err != nil
	}), nil
}

// runS3 measures.
func runS3(kedge string, scale float64, rounds int, dir string) error {
	b, err := startBucket(dir)
	if err != nil {
		return err
	}
	defer b.stop()
	tools, err := copiers(kedge, dir, b)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := makeSet("media", data, scale); err != nil {
		return err
	}
	var all []result
	for round := range rounds {
		rs, err := roundS3(kedge, tools, b, data, filepath.Join(dir, fmt.Sprint("round", round)), round)
		if err != nil {
			return err
		}
		all = append(all, rs...)
		if err := os.RemoveAll(filepath.Join(b.data, "backup")); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(b.data, "backup"), 0o755); err != nil {
			return err
		}
	}
	printS3(tools, all)
	return nil
}

// stepsS3 are the steps of a round.
var stepsS3 = []string{"first", "unchanged", "day 2", "same size and time"}

func roundS3(kedge string, tools []copier, b *bucketServer, data, work string, round int) (rs []result, err error) {
	src, repo := filepath.Join(work, "src"), filepath.Join(work, "repo")
	save := func(day string) error {
		if err := quiet("rsync", "-a", "--delete", "--mkpath", filepath.Join(data, day)+"/", src+"/"); err != nil {
			return err
		}
		if err := quiet(kedge, "-d", repo, "index", src); err != nil {
			return err
		}
		return quiet(kedge, "-d", repo, "save", "-q", "-n", "main", src)
	}
	if err := quiet(kedge, "-d", repo, "init"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	for i, step := range stepsS3 {
		switch step {
		case "first":
			err = save("day1")
		case "day 2":
			err = save("day2")
		case "same size and time":
			err = sameSizeAndTime(filepath.Join(repo, "config"))
		}
		if err != nil {
			return nil, err
		}
		for k := range tools {
			t := tools[(k+round+i)%len(tools)] // another one is the first each time
			prefix := fmt.Sprint(t.name, round)
			r, err := timed(tool{env: t.env}, [][]string{t.run(repo, prefix)}, work)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", t.name, step, err)
			}
			r.set, r.tool, r.step = "s3", t.name, step
			r.repoMB = float64(treeSize(filepath.Join(b.data, "backup", prefix))) / 1e6
			if step == "same size and time" && !noticed(t, b, repo, prefix) {
				r.note = " (not noticed)"
			}
			fmt.Fprintf(os.Stderr, "%-7s %-18s %7.2f s  cpu %6.2f s  %5d MiB  bucket %8.1f MB%s\n", t.name, step, r.wall, r.cpu, r.rssMiB, r.repoMB, r.note)
			rs = append(rs, r)
		}
	}
	return rs, nil
}

// sameSizeAndTime changes a byte of a comment of a config file.
func sameSizeAndTime(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed := bytes.Replace(text, []byte("\t"), []byte(" "), 1)
	if bytes.Equal(changed, text) {
		return fmt.Errorf("%s has no tab", name)
	}
	if err := os.WriteFile(name, changed, info.Mode()); err != nil {
		return err
	}
	return os.Chtimes(name, info.ModTime(), info.ModTime())
}

// noticed reports whether the config of a repository is in the bucket as it is here.
func noticed(t copier, b *bucketServer, repo, prefix string) bool {
	want, err := os.ReadFile(filepath.Join(repo, "config"))
	if err != nil {
		return false
	}
	bucket := filepath.Join(b.data, "backup")
	if t.holds != nil {
		got, err := os.ReadFile(filepath.Join(bucket, t.holds(prefix)))
		return err == nil && bytes.Equal(got, want)
	}
	states, err := filepath.Glob(filepath.Join(bucket, prefix, "state", "*"))
	return err == nil && slices.ContainsFunc(states, func(name string) bool {
		got, err := os.ReadFile(name)
		return err == nil && bytes.Equal(got, want)
	})
}

func printS3(tools []copier, all []result) {
	fmt.Print("| step, s (CPU) |")
	for _, t := range tools {
		fmt.Printf(" %s |", t.name)
	}
	fmt.Print("\n|---|" + strings.Repeat("---|", len(tools)) + "\n")
	for _, step := range stepsS3 {
		fmt.Printf("| %s |", step)
		for _, t := range tools {
			r, _ := best(all, "s3", t.name, step)
			fmt.Printf(" %.2f (%.2f)%s |", r.wall, r.cpu, r.note)
		}
		fmt.Println()
	}
	fmt.Print("| peak memory, MiB |")
	for _, t := range tools {
		fmt.Printf(" %d |", peak(all, "s3", t.name))
	}
	fmt.Println()
}
