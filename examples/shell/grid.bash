# Shell functions for composed calls. Source this file: . examples/shell/grid.bash

# Spells one argument as it stands in a path: `grid_encode 'a b/c'` prints a%20b%2Fc.
grid_encode() {
    local LC_ALL=C text=$1 char i
    case $text in
    '') printf '%%' ;;
    . | ..) printf '%s' "${text//./%2E}" ;;
    *)
        for ((i = 0; i < ${#text}; i++)); do
            char=${text:i:1}
            case $char in
            [A-Za-z0-9._~-]) printf '%s' "$char" ;;
            # Bytes from 128 on may come out negative.
            *) printf '%%%02X' $(($(printf '%d' "'$char") & 255)) ;;
            esac
        done
        ;;
    esac
    printf '\n'
}

# Prints the path of a chain of calls, with / between them and _ for the result of the one before:
#   cat "$(grid_chain grep whale moby.txt / wc _ -l)"
# The last call is not made before the path is read; the others are, to know what it is called with.
grid_chain() {
    local word result= call=()
    for word in "$@" /; do
        case $word in
        /) result=$(grid --path "${call[@]}") || return; call=() ;;
        _) call+=("$result") ;;
        *) call+=("$word") ;;
        esac
    done
    printf '%s\n' "$result"
}
