// net/http on both ends. usage: http server|client PORT
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

func noise(size int) []byte {
	data := make([]byte, size)
	for at := range data {
		data[at] = byte(at * 7 >> 3)
	}
	return data
}

func give(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/bytes/"))
	if err != nil {
		http.Error(w, "no number", http.StatusBadRequest)
		return
	}
	w.Write(noise(size))
}

func echo(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	w.Write(data)
}

func said(response *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return fmt.Sprintf("%d %d %x %v", response.StatusCode, len(data), sha256.Sum256(data), err)
}

func main() {
	port := os.Args[2]
	if os.Args[1] == "server" {
		http.HandleFunc("/bytes/", give)
		http.HandleFunc("/echo", echo)
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		go func() {
			<-end
			os.Exit(0)
		}()
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+port, nil))
		os.Exit(1)
	}
	answers := make([]string, 40)
	var all sync.WaitGroup
	for at := range answers {
		all.Add(1)
		go func(at int) {
			defer all.Done()
			url := "http://127.0.0.1:" + port
			if at%2 == 0 {
				answers[at] = said(http.Get(fmt.Sprintf("%s/bytes/%d", url, at*20000)))
			} else {
				answers[at] = said(http.Post(url+"/echo", "application/octet-stream", bytes.NewReader(noise(at*20000))))
			}
		}(at)
	}
	all.Wait()
	for _, answer := range answers {
		fmt.Println(answer)
	}
}
