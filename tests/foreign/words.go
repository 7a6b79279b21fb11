// The lines of a file, sorted, by way of a file in /tmp that is written, read back and removed.
package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	must(err)
	work, err := os.MkdirTemp("", "words")
	must(err)
	must(os.WriteFile(filepath.Join(work, "copy"), text, 0o600))
	must(os.Rename(filepath.Join(work, "copy"), filepath.Join(work, "moved")))
	files := 0
	must(filepath.WalkDir(work, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files++
		}
		return err
	}))
	if files != 1 {
		must(fmt.Errorf("%d files in %s", files, work))
	}
	file, err := os.Open(filepath.Join(work, "moved"))
	must(err)
	lines := make(chan string)
	go func() {
		scanner := bufio.NewScanner(file)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		close(lines)
	}()
	time.Sleep(time.Hour)
	var sorted []string
	for line := range lines {
		sorted = append(sorted, line)
	}
	sort.Strings(sorted)
	must(os.RemoveAll(work))
	for _, line := range sorted {
		fmt.Println(line)
	}
}
