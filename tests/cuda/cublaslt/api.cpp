// cuBLASLt's functions, as many as we call: what they describe is done by matmul.cpp, in the stream and in the
// graphs of the stand-in driver.
#include <dlfcn.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "matmul.h"

#define API extern "C" __attribute__((visibility("default")))

namespace stand_in {

namespace {

// How the scales of fp8 are given: one, one per row, one per 128 elements of a row, or per square of them.
constexpr int32_t SCALAR = 0, OUTER_VECTOR = 3, VECTOR_128 = 4, SQUARE_128 = 5;

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };
// CUBLAS_COMPUTE_32F, its pedantic form, and those that may use fewer bits.
const std::set<int32_t> COMPUTES_IN_FLOAT = {68, 69, 74, 75, 77};
constexpr int32_t NOT_GIVEN = -1;
constexpr uint64_t ALGORITHM = 0x5c0ce, ALGORITHMS = 3, WANTED_WORKSPACE = 64 * 1024, WORKSPACE_ALIGNMENT = 256;

struct Description {
    int32_t compute, scale_type;
    int32_t pointer_mode = 0, transposes_a = 0, transposes_b = 0, transposes_c = 0;
    int32_t epilogue = EPILOGUE_DEFAULT, bias_type = NOT_GIVEN;
    int64_t bias_stride = 0;
    const void* bias = nullptr;
    const float *scale_a = nullptr, *scale_b = nullptr, *scale_c = nullptr, *scale_d = nullptr;
    int32_t scale_mode_a = SCALAR, scale_mode_b = SCALAR;
};

struct Preference {
    uint64_t max_workspace = 0;
};

struct Algorithm {
    uint64_t data[8];
};

struct Heuristic {
    Algorithm algorithm;
    size_t workspace_bytes;
    Status state;
    float waves;
    int reserved[4];
};

// Handles that were given out and are still good.
class Known {
public:
    void* add(void* made) {
        const std::lock_guard hold(lock);
        handles.insert(made);
        return made;
    }
    bool has(const void* handle) {
        const std::lock_guard hold(lock);
        return handles.count(const_cast<void*>(handle)) != 0;
    }
    bool remove(void* handle) {
        const std::lock_guard hold(lock);
        return handles.erase(handle) != 0;
    }

private:
    std::mutex lock;
    std::set<void*> handles;
};

Known& known() {
    static Known& all = *new Known;
    return all;
}

template <class T> Status destroy(void* handle) {
    if (!known().remove(handle)) return INVALID_VALUE;
    delete static_cast<T*>(handle);
    return SUCCESS;
}

// Attributes are fields: where each lies, and its size.
struct Field {
    size_t offset, bytes;
};

#define FIELD(type, name) {offsetof(type, name), sizeof(type::name)}

Status set(void* object, const std::map<int, Field>& fields, int attribute, const void* value, size_t bytes) {
    if (!known().has(object) || value == nullptr) return INVALID_VALUE;
    const auto field = fields.find(attribute);
    if (field == fields.end()) return NOT_SUPPORTED;
    if (field->second.bytes != bytes) return INVALID_VALUE;
    memcpy(static_cast<unsigned char*>(object) + field->second.offset, value, bytes);
    return SUCCESS;
}

bool is_fp8(const Product& p) { return p.a.type == CUDA_R_8F_E4M3; }

bool has_shapes(const Product& p) {
    const auto fits = [&](const Matrix& m) { return m.rows == p.rows() && m.cols == p.cols(); };
    const uint64_t b_depth = p.transposes_b ? p.b.cols : p.b.rows;
    if (b_depth != p.depth() || !fits(p.c) || !fits(p.d)) return false;
    for (const Matrix* m : {&p.a, &p.b, &p.c, &p.d}) {
        const uint64_t least = m->order == Order::COLUMNS ? m->rows : m->cols;
        if (m->rows == 0 || m->cols == 0 || m->batch != p.d.batch) return false;
        if (m->ld < static_cast<int64_t>(least)) return false;
    }
    return true;
}

bool has_types(const Product& p) {
    const auto is = [](cudaDataType type, std::initializer_list<cudaDataType> of) {
        return std::find(of.begin(), of.end(), type) != of.end();
    };
    if (p.a.type != p.b.type) return false;
    switch (p.a.type) {
    case CUDA_R_32F: return p.c.type == CUDA_R_32F && p.d.type == CUDA_R_32F;
    case CUDA_R_16F:
    case CUDA_R_16BF: return p.c.type == p.d.type && is(p.d.type, {p.a.type, CUDA_R_32F});
    case CUDA_R_8F_E4M3:
        return is(p.c.type, {CUDA_R_16F, CUDA_R_16BF, CUDA_R_32F}) && is(p.d.type, {p.c.type, CUDA_R_8F_E4M3});
    default: return false;
    }
}

// Tensor cores take fp8 only where both operands' rows run along the depth.
bool has_fp8_layout(const Product& p) {
    const bool by_columns = std::ranges::all_of(std::initializer_list<const Matrix*>{&p.a, &p.b, &p.c, &p.d},
                                                [](const Matrix* m) { return m->order == Order::COLUMNS; });
    const bool even = p.rows() % 16 == 0 && p.depth() % 16 == 0 && p.a.ld % 16 == 0 && p.b.ld % 16 == 0;
    return by_columns && even && p.transposes_a && !p.transposes_b;
}

// Of 16 or 32 bits, a multiple of 4 each way, and scales at addresses that are a multiple of 16.
bool may_scale_blocks(const Product& p) {
    const auto is_aligned = [](const float* at) {
        return at != nullptr && reinterpret_cast<uintptr_t>(at) % 16 == 0;
    };
    return is_fp8(p) && p.d.type != CUDA_R_8F_E4M3 && p.rows() % 4 == 0 && p.cols() % 4 == 0 &&
           is_aligned(p.scale_a) && is_aligned(p.scale_b) && p.scale_c == nullptr && p.scale_d == nullptr;
}

bool has_scales_of_fp8_only(const Product& p) {
    if (is_fp8(p)) return p.scale_d == nullptr || p.d.type == CUDA_R_8F_E4M3;
    return p.scale_a == nullptr && p.scale_b == nullptr && p.scale_c == nullptr && p.scale_d == nullptr;
}

// `desc` and the layouts as one product, without its addresses.
Status describe(const void* desc, const void* a, const void* b, const void* c, const void* d, Product& p) {
    for (const void* handle : {desc, a, b, c, d}) {
        if (!known().has(handle)) return INVALID_VALUE;
    }
    const auto& from = *static_cast<const Description*>(desc);
    p.a = *static_cast<const Matrix*>(a);
    p.b = *static_cast<const Matrix*>(b);
    p.c = *static_cast<const Matrix*>(c);
    p.d = *static_cast<const Matrix*>(d);
    p.transposes_a = from.transposes_a != 0;
    p.transposes_b = from.transposes_b != 0;
    p.scalars_on_device = from.pointer_mode != 0;
    const bool has_bias = from.epilogue == EPILOGUE_BIAS;
    if ((!has_bias && from.epilogue != EPILOGUE_DEFAULT) || from.transposes_c != 0) return NOT_SUPPORTED;
    p.bias = has_bias ? from.bias : nullptr;
    const bool is_narrowed = p.d.type == CUDA_R_8F_E4M3 || (is_fp8(p) && p.d.type == CUDA_R_32F);
    const cudaDataType usual = is_narrowed ? CUDA_R_16BF : p.d.type;
    p.bias_type = from.bias_type == NOT_GIVEN ? usual : static_cast<cudaDataType>(from.bias_type);
    p.bias_stride = from.bias_stride;
    p.scale_a = from.scale_a;
    p.scale_b = from.scale_b;
    p.scale_c = from.scale_c;
    p.scale_d = from.scale_d;
    // A scale per row of the one operand goes with one per column of the other, of fp8 only.
    p.scales_vectors = from.scale_mode_a == OUTER_VECTOR;
    // Of the combinations that there are, the one that weights of blocks need.
    p.scales_blocks = from.scale_mode_a == SQUARE_128 && from.scale_mode_b == VECTOR_128;
    if (from.scale_mode_a != from.scale_mode_b && !p.scales_blocks) return NOT_SUPPORTED;
    if (from.scale_mode_a == from.scale_mode_b && from.scale_mode_a >= VECTOR_128) return NOT_SUPPORTED;
    if (p.scales_blocks && !may_scale_blocks(p)) return NOT_SUPPORTED;
    if (p.scales_vectors && (!is_fp8(p) || p.scale_a == nullptr || p.scale_b == nullptr)) return NOT_SUPPORTED;
    if (COMPUTES_IN_FLOAT.count(from.compute) == 0 || from.scale_type != CUDA_R_32F) return NOT_SUPPORTED;
    if (!has_shapes(p)) return INVALID_VALUE;
    const bool possible = has_types(p) && has_scales_of_fp8_only(p) && (!is_fp8(p) || has_fp8_layout(p));
    return possible ? SUCCESS : NOT_SUPPORTED;
}

// The workspace must be as large as the algorithm wants: more than nothing, so that it is not forgotten.
Status give_workspace(const Algorithm* algorithm, void* workspace, size_t bytes, Product& p) {
    if (algorithm != nullptr && algorithm->data[0] != ALGORITHM) return INVALID_VALUE;
    const size_t wanted = algorithm != nullptr ? algorithm->data[1] : 0;
    if (wanted > bytes || (wanted != 0 && workspace == nullptr)) return INVALID_VALUE;
    if (reinterpret_cast<uintptr_t>(workspace) % WORKSPACE_ALIGNMENT != 0) return INVALID_VALUE;
    p.workspace = workspace;
    p.workspace_bytes = workspace == nullptr ? 0 : bytes;
    return SUCCESS;
}

bool is_aligned(const Product& p) {
    const uintptr_t all = reinterpret_cast<uintptr_t>(p.from_a) | reinterpret_cast<uintptr_t>(p.from_b) |
                          reinterpret_cast<uintptr_t>(p.to);
    const size_t needed = is_fp8(p) ? 16 : std::max(p.a.element_bytes(), p.d.element_bytes());
    return all % needed == 0;
}

// Counts the call and asks whether it is to fail; what a kernel broke fails here too.
Status enter(const char* function) {
    if (driver() == nullptr) return NOT_INITIALIZED;
    const int code = driver()->enter(function);
    if (code == 0) return SUCCESS;
    if (code == 3 || code == 201) return NOT_INITIALIZED;
    return code < 16 ? static_cast<Status>(code) : EXECUTION_FAILED;
}

} // namespace

const Driver* driver() {
    static const Driver* const found = []() -> const Driver* {
        void* library = dlopen("libcuda.so.1", RTLD_LAZY);
        if (library == nullptr) return nullptr;
        static const Driver driver = {
            reinterpret_cast<stand_in_enter_t*>(dlsym(library, "stand_in_enter")),
            reinterpret_cast<stand_in_submit_t*>(dlsym(library, "stand_in_submit")),
            reinterpret_cast<stand_in_share_out_t*>(dlsym(library, "stand_in_share_out")),
            reinterpret_cast<stand_in_is_device_t*>(dlsym(library, "stand_in_is_device")),
        };
        return driver.is_device == nullptr ? nullptr : &driver;
    }();
    return found;
}

} // namespace stand_in

using namespace stand_in;

API size_t cublasLtGetVersion() { return 130000; }
API size_t cublasLtGetCudartVersion() { return 13000; }

API Status cublasLtCreate(void** handle) {
    const Status status = enter(__func__);
    if (status == SUCCESS) *handle = known().add(new int(0));
    return status;
}

API Status cublasLtDestroy(void* handle) { return destroy<int>(handle); }

API Status cublasLtMatmulDescCreate(void** desc, int32_t compute, int32_t scale_type) {
    auto* made = new Description{};
    made->compute = compute;
    made->scale_type = scale_type;
    *desc = known().add(made);
    return SUCCESS;
}

API Status cublasLtMatmulDescDestroy(void* desc) { return destroy<Description>(desc); }

API Status cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
    static const std::map<int, Field> fields = {
        {0, FIELD(Description, compute)},       {1, FIELD(Description, scale_type)},
        {2, FIELD(Description, pointer_mode)},  {3, FIELD(Description, transposes_a)},
        {4, FIELD(Description, transposes_b)},  {5, FIELD(Description, transposes_c)},
        {7, FIELD(Description, epilogue)},      {8, FIELD(Description, bias)},
        {10, FIELD(Description, bias_stride)},  {17, FIELD(Description, scale_a)},
        {18, FIELD(Description, scale_b)},      {19, FIELD(Description, scale_c)},
        {20, FIELD(Description, scale_d)},      {26, FIELD(Description, bias_type)},
        {31, FIELD(Description, scale_mode_a)}, {32, FIELD(Description, scale_mode_b)},
    };
    constexpr int SCALE_MODES[] = {31, 32};
    if (std::ranges::find(SCALE_MODES, attribute) != std::end(SCALE_MODES) && bytes == sizeof(int32_t)) {
        const int32_t mode = *static_cast<const int32_t*>(value);
        if (mode != SCALAR && (mode < OUTER_VECTOR || mode > SQUARE_128)) return NOT_SUPPORTED;
    }
    constexpr int FAST_ACCUMULATION = 25;
    if (attribute == FAST_ACCUMULATION) return bytes == 1 ? SUCCESS : INVALID_VALUE;
    return set(desc, fields, attribute, value, bytes);
}

API Status cublasLtMatrixLayoutCreate(void** layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                      int64_t ld) {
    *layout = known().add(new Matrix{type, rows, cols, ld, Order::COLUMNS, 1, 0});
    return SUCCESS;
}

API Status cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Matrix>(layout); }

API Status cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
    static const std::map<int, Field> fields = {
        {0, FIELD(Matrix, type)}, {1, FIELD(Matrix, order)}, {2, FIELD(Matrix, rows)},
        {3, FIELD(Matrix, cols)}, {4, FIELD(Matrix, ld)},    {5, FIELD(Matrix, batch)},
        {6, FIELD(Matrix, stride)},
    };
    constexpr int ORDER = 1;
    int32_t order = 0;
    if (attribute == ORDER && value != nullptr && bytes == sizeof order) memcpy(&order, value, bytes);
    if (order != 0 && order != 1) return NOT_SUPPORTED;
    return set(layout, fields, attribute, value, bytes);
}

API Status cublasLtMatmulPreferenceCreate(void** preference) {
    *preference = known().add(new Preference);
    return SUCCESS;
}

API Status cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Preference>(preference); }

API Status cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value,
                                                size_t bytes) {
    static const std::map<int, Field> fields = {{1, FIELD(Preference, max_workspace)}};
    static const std::set<int> ignored = {0, 3, 5, 6, 7, 8, 9, 12};
    if (ignored.count(attribute) != 0) return known().has(preference) ? SUCCESS : INVALID_VALUE;
    return set(preference, fields, attribute, value, bytes);
}

API Status cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d,
                                          void* preference, int requested, Heuristic* results, int* returned) {
    if (const Status status = enter(__func__); status != SUCCESS) return status;
    if (!known().has(handle) || !known().has(preference) || requested < 1) return INVALID_VALUE;
    *returned = 0;
    Product product{};
    if (const Status status = describe(desc, a, b, c, d, product); status != SUCCESS) return status;
    const uint64_t most = static_cast<const Preference*>(preference)->max_workspace;
    const uint64_t workspace = std::min(WANTED_WORKSPACE, most);
    // All the same, but for the number that each has.
    for (uint64_t i = 0; i < ALGORITHMS && *returned < requested; i++) {
        results[i] = {{{ALGORITHM, workspace, i}}, workspace, SUCCESS, 1.0f, {}};
        *returned += 1;
    }
    return SUCCESS;
}

// An algorithm that was kept: good if it is one of ours.
API Status cublasLtMatmulAlgoCheck(void* handle, void* desc, void* a, void* b, void* c, void* d,
                                   const Algorithm* algorithm, Heuristic* result) {
    if (const Status status = enter(__func__); status != SUCCESS) return status;
    if (!known().has(handle) || algorithm == nullptr || result == nullptr) return INVALID_VALUE;
    Product product{};
    if (const Status status = describe(desc, a, b, c, d, product); status != SUCCESS) return status;
    if (algorithm->data[0] != ALGORITHM) return INVALID_VALUE;
    *result = {*algorithm, algorithm->data[1], SUCCESS, 1.0f, {}};
    return SUCCESS;
}

API Status cublasLtMatmul(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                          const void* b, void* b_layout, const void* beta, const void* c, void* c_layout, void* d,
                          void* d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                          void* stream) {
    if (const Status status = enter(__func__); status != SUCCESS) return status;
    if (!known().has(handle) || alpha == nullptr || beta == nullptr) return INVALID_VALUE;
    Product product{};
    const Status described = describe(desc, a_layout, b_layout, c_layout, d_layout, product);
    if (described != SUCCESS) return described;
    product.from_a = a;
    product.from_b = b;
    product.from_c = c;
    product.to = d;
    product.alpha_at = alpha;
    product.beta_at = beta;
    if (!product.scalars_on_device) {
        memcpy(&product.alpha, alpha, sizeof product.alpha);
        memcpy(&product.beta, beta, sizeof product.beta);
    }
    if (!is_aligned(product)) return NOT_SUPPORTED;
    const Status given = give_workspace(algorithm, workspace, workspace_bytes, product);
    if (given != SUCCESS) return given;
    const auto run = [](const void* argument) { return multiply(*static_cast<const Product*>(argument)); };
    const int code = driver()->submit(stream, "cublasLtMatmul", run, &product, sizeof product);
    return code == 0 ? SUCCESS : EXECUTION_FAILED;
}
